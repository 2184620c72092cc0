"""A whole mesh with MiniLM and a model that generates."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from openai import AsyncOpenAI

from mlxmesh_client import MeshClient
from tests.e2e.encoder_calls import cosine, engine_of, raise_failures
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.fakes.minilm import minilm, reference_vectors

REFERENCES = [each for each in reference_vectors() if each[0]]
MIN_COSINE = 0.9999
DOCUMENTS = ["the lazy dog", "brown fox jumps", "again and again", "def main return"]
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(tmp_path_factory.mktemp("mesh"))
    added = running.command("register", str(minilm()), "--name", "minilm")
    assert added.returncode == 0, added.stderr
    yield running
    stop_mesh(running)


@pytest.fixture
async def client(mesh: RunningMesh) -> AsyncIterator[MeshClient]:
    async with MeshClient(mesh.address, timeout_s=TIMEOUT_S) as client:
        yield client


async def test_vectors_are_the_reference_s_by_every_protocol(
    mesh: RunningMesh, client: MeshClient
) -> None:
    texts = [text for text, _, _ in REFERENCES]
    by_grpc = await client.embed("minilm", texts, truncate=True)
    for made, (_, _, expected) in zip(by_grpc.embeddings, REFERENCES, strict=True):
        assert cosine(made.values, expected) >= MIN_COSINE
    assert by_grpc.prompt_tokens == sum(tokens for _, tokens, _ in REFERENCES)
    url = f"http://{mesh.http}/v1"
    async with AsyncOpenAI(base_url=url, api_key="any", timeout=TIMEOUT_S) as openai:
        options = {"truncate": True}
        by_http = await openai.embeddings.create(model="minilm", input=texts, extra_body=options)
        short = await openai.embeddings.create(model="minilm", input="a fox", dimensions=64)
        listed = (await openai.models.retrieve("minilm")).model_dump()
    for made, same in zip(by_http.data, by_grpc.embeddings, strict=True):
        assert cosine(made.embedding, same.values) >= 1 - 1e-6
    assert len(short.data[0].embedding) == 64
    assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert (listed["kind"], listed["dimensions"]) == ("embedding", 384)


async def test_a_killed_engine_costs_no_call_and_generation_goes_on(
    mesh: RunningMesh, client: MeshClient
) -> None:
    text = REFERENCES[0][0]
    expected = list((await client.embed("minilm", text)).embeddings[0].values)
    stop = asyncio.Event()
    calls = 0

    async def embed_on() -> None:
        nonlocal calls
        while not stop.is_set():
            made = await client.embed("minilm", [text, *DOCUMENTS])
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
        os.kill(await asyncio.to_thread(engine_of, mesh, "minilm"), signal.SIGKILL)
        before = calls
        while calls < before + 12:
            await asyncio.sleep(0.02)
            raise_failures(embedding)
    finally:
        stop.set()
    await asyncio.gather(*embedding)
    assert (await generating).finished.usage.completion_tokens == 200
