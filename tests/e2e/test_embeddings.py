"""A whole mesh with an embedding model, a cross-encoder and a model that generates, all small."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI
from tokenizers import Tokenizer

from mlxmesh_client import MeshClient
from tests.e2e.encoder_calls import cosine, engine_of, raise_failures
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.fakes.encoder_models import VOCAB, Reference, pooled, write_encoder
from tests.fakes.encoder_tokenizers import bert_words

MODULES: Any = [("Pooling", {"pooling_mode_mean_tokens": True}), ("Normalize", {})]
MIN_COSINE = 0.9999
QUERY = "the quick fox"
DOCUMENTS = ["the lazy dog", "brown fox jumps", "again and again", "def main return"]
TIMEOUT_S = 120


@dataclass(frozen=True)
class Encoders:
    """A mesh, and the directories of its models."""

    mesh: RunningMesh
    small: Path
    ranker: Path


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoders]:
    root = tmp_path_factory.mktemp("encoders")
    small = write_encoder(root / "small", "bert", modules=MODULES)
    ranker = write_encoder(root / "ranker", "bert", labels=1)
    bert_words(small, VOCAB)
    bert_words(ranker, VOCAB)
    mesh = start_mesh(root / "mesh")
    for directory, name in ((small, "small"), (ranker, "ranker")):
        added = mesh.command("register", str(directory), "--name", name)
        assert added.returncode == 0, added.stderr
    yield Encoders(mesh, small, ranker)
    stop_mesh(mesh)


@pytest.fixture
async def client(encoders: Encoders) -> AsyncIterator[MeshClient]:
    async with MeshClient(encoders.mesh.address, timeout_s=TIMEOUT_S) as client:
        yield client


async def test_vectors_are_the_reference_s_by_every_protocol(
    encoders: Encoders, client: MeshClient
) -> None:
    tokenizer = Tokenizer.from_file(str(encoders.small / "tokenizer.json"))
    reference = Reference(encoders.small)
    by_grpc = await client.embed("small", DOCUMENTS)
    for made, text in zip(by_grpc.embeddings, DOCUMENTS, strict=True):
        expected = pooled(reference.hidden(tokenizer.encode(text).ids), "mean")
        assert cosine(made.values, expected) >= MIN_COSINE
    url = f"http://{encoders.mesh.http}/v1"
    async with AsyncOpenAI(base_url=url, api_key="any", timeout=TIMEOUT_S) as openai:
        by_http = await openai.embeddings.create(model="small", input=DOCUMENTS)
        short = await openai.embeddings.create(model="small", input="a fox", dimensions=8)
        listed = (await openai.models.retrieve("small")).model_dump()
    for made, same in zip(by_http.data, by_grpc.embeddings, strict=True):
        assert cosine(made.embedding, same.values) >= 1 - 1e-6
    assert len(short.data[0].embedding) == 8
    assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert (listed["kind"], listed["dimensions"]) == ("embedding", 32)


async def test_documents_have_the_cross_encoder_s_scores(
    encoders: Encoders, client: MeshClient
) -> None:
    tokenizer = Tokenizer.from_file(str(encoders.ranker / "tokenizer.json"))
    reference = Reference(encoders.ranker)
    logits: list[float] = []
    for document in DOCUMENTS:
        encoding = tokenizer.encode(QUERY, document)
        logits.append(reference.score(encoding.ids, encoding.type_ids.index(1)))
    ranked = await client.rerank("ranker", QUERY, DOCUMENTS)
    expected = sorted(range(len(logits)), key=lambda index: -logits[index])
    assert [each.index for each in ranked.results] == expected
    for each in ranked.results:
        assert each.relevance_score == pytest.approx(
            1 / (1 + np.exp(-logits[each.index])), abs=1e-4
        )


async def test_a_killed_engine_costs_no_call_and_generation_goes_on(
    encoders: Encoders, client: MeshClient
) -> None:
    text = QUERY
    expected = list((await client.embed("small", text)).embeddings[0].values)
    stop = asyncio.Event()
    calls = 0

    async def embed_on() -> None:
        nonlocal calls
        while not stop.is_set():
            made = await client.embed("small", [text, *DOCUMENTS])
            assert cosine(made.embeddings[0].values, expected) >= 1 - 1e-6
            calls += 1

    embedding = [asyncio.create_task(embed_on()) for _ in range(4)]
    generating = asyncio.create_task(
        client.complete("pocket", prompt="Once upon a time", max_tokens=200, ignore_eos=True)
    )
    try:
        while calls < 8:
            await asyncio.sleep(0.02)
            raise_failures(embedding)
        os.kill(await asyncio.to_thread(engine_of, encoders.mesh, "small"), signal.SIGKILL)
        before = calls
        while calls < before + 12:
            await asyncio.sleep(0.02)
            raise_failures(embedding)
    finally:
        stop.set()
    await asyncio.gather(*embedding)
    assert (await generating).finished.usage.completion_tokens == 200


def test_the_command_shows_vectors_and_rankings(encoders: Encoders) -> None:
    embedded = encoders.mesh.command("embed", "small", "a fox", "a car")
    assert embedded.returncode == 0, embedded.stderr
    assert "2 of 32 components by small@1" in embedded.stdout + embedded.stderr
    ranked = encoders.mesh.command("rerank", "ranker", QUERY, *DOCUMENTS, "--top", "2", "--json")
    assert ranked.returncode == 0, ranked.stderr
    refused = encoders.mesh.command("generate", "Hi", "--model", "small")
    assert refused.returncode == 1
    assert "/v1/embeddings" in refused.stderr
