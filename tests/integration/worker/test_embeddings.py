"""Embeddings by engines and upstreams: as a job of their own, and as requests of a batch."""

import base64
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2, worker_pb2
from mlxmesh.model.v1.model_pb2 import VERSION_STATE_READY, Model, ModelVersion
from mlxmesh.model.v1.upstream_pb2 import (
    UPSTREAM_CAPABILITY_CHAT,
    UPSTREAM_CAPABILITY_EMBEDDING,
    Upstream,
)
from tests.fakes import encoder_tokenizers
from tests.fakes.job_service import FakeJob
from tests.fakes.openai_upstream import MODEL, FakeUpstream, running_upstream
from tests.fakes.waiting import until
from tests.integration.generation.encoding_mesh import encoder_engine, encoder_model
from tests.integration.worker.harness import Rig, running_rig, running_worker
from tests.integration.worker.test_requests import gateway

KEY = "sk-embed"
TEXTS = ["one", "three", "seven"]


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with running_upstream(key=KEY) as running:
        yield running


@pytest.fixture
async def rig(
    tmp_path: Path,
    tokenizer_dir: Path,
    upstream: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Rig]:
    monkeypatch.setenv("EMBED_KEY", KEY)
    async with running_rig(tmp_path, tokenizer_dir) as running, gateway(running):
        running.mesh.models.put(model(upstream))
        yield running


def model(upstream: FakeUpstream) -> Model:
    """Version 1 only answers conversations; the alias `vectors` is version 2, which embeds."""
    versions = [
        ModelVersion(
            version=number,
            state=VERSION_STATE_READY,
            desired_replicas=1,
            upstream=Upstream(
                base_url=upstream.url, model_id=MODEL, key="env:EMBED_KEY", capabilities=[takes]
            ),
        )
        for number, takes in ((1, UPSTREAM_CAPABILITY_CHAT), (2, UPSTREAM_CAPABILITY_EMBEDDING))
    ]
    aliases = {"vectors": 2}
    return Model(name="far", versions=versions, aliases=aliases, default_version=2)


def embed(rig: Rig, reference: str = "far", **fields: Any) -> FakeJob:
    work = job_pb2.EmbeddingWork(model=reference, inputs=TEXTS, **fields)
    return rig.jobs.submit("job-1", job_pb2.JOB_KIND_EMBEDDING, embedding=work)


def request(rig: Rig, **body: Any) -> FakeJob:
    work = worker_pb2.RequestWork(
        endpoint="/v1/embeddings", body_json=json.dumps({"model": "far", "input": TEXTS, **body})
    )
    return rig.jobs.submit("batch_1:1", job_pb2.JOB_KIND_REQUEST, request=work)


@pytest.mark.parametrize("reference", ["far", "far@2", "far:vectors"])
async def test_a_job_has_a_vector_for_each_text(
    rig: Rig, upstream: FakeUpstream, reference: str
) -> None:
    async with running_worker(rig):
        job = embed(rig, reference, dimensions=2)
        await rig.ended(job)
    (result,) = job.results
    vectors = [list(each.values) for each in result.embedding.vectors]
    assert vectors == [[float(len(text)), 1.0] for text in TEXTS]
    assert (result.embedding.model, result.embedding.prompt_tokens) == ("far@2", 3)
    assert (result.used.model, result.used.model_version, result.used.prompt_tokens) == (
        "far",
        2,
        3,
    )
    assert upstream.requests == [{"model": MODEL, "input": TEXTS, "dimensions": 2}]
    assert upstream.authorizations == [f"Bearer {KEY}"]


async def test_a_request_of_a_batch_has_the_response_of_its_protocol(rig: Rig) -> None:
    async with running_worker(rig):
        job = request(rig, encoding_format="base64")
        await rig.ended(job)
    (result,) = job.results
    body = json.loads(result.request.body_json)
    assert (result.request.status_code, body["object"], body["model"]) == (200, "list", "far")
    first = struct.unpack("<2f", base64.b64decode(body["data"][0]["embedding"]))
    assert first == (float(len(TEXTS[0])), 1.0)
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert (result.request.prompt_tokens, result.used.prompt_tokens) == (3, 3)


async def test_an_engine_makes_the_vectors_of_a_job_and_of_a_batch(
    rig: Rig, tmp_path: Path
) -> None:
    bert = encoder_tokenizers.bert(tmp_path / "bert")
    rig.mesh.models.put(encoder_model(), bert)
    async with encoder_engine("embedding", "engine-9") as engine, running_worker(rig):
        await rig.registry.register(engine.instance)
        work = job_pb2.EmbeddingWork(model="small", inputs=TEXTS, dimensions=2)
        job = rig.jobs.submit("job-1", job_pb2.JOB_KIND_EMBEDDING, embedding=work)
        await rig.ended(job)
        line = request(rig, model="small")
        await rig.ended(line)
    (result,) = job.results
    assert [len(each.values) for each in result.embedding.vectors] == [2] * len(TEXTS)
    assert result.embedding.model == "small@1"
    assert all(each.background for each in engine.encoding.requests)
    (answer,) = line.results
    body = json.loads(answer.request.body_json)
    assert [len(each["embedding"]) for each in body["data"]] == [4] * len(TEXTS)
    assert answer.used.prompt_tokens == sum(
        len(each.token_ids) for each in engine.encoding.requests[-1].inputs
    )


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("pocket", "FEATURE_NOT_SUPPORTED"),
        ("far@1", "FEATURE_NOT_SUPPORTED"),
        ("far@3", "MODEL_NOT_FOUND"),
        ("nobody", "MODEL_NOT_FOUND"),
    ],
)
async def test_a_model_without_embeddings_is_refused_by_name(
    rig: Rig, upstream: FakeUpstream, reference: str, reason: str
) -> None:
    async with running_worker(rig):
        job = embed(rig, reference)
        await rig.ended(job, "failed")
    (failed,) = job.failures
    assert (failed.failure.reason, failed.fault) == (reason, worker_pb2.FAULT_JOB)
    assert reference.partition("@")[0] in failed.failure.message
    assert not upstream.requests


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, worker_pb2.FAULT_JOB),
        (429, worker_pb2.FAULT_SERVICE_UNAVAILABLE),
        (503, worker_pb2.FAULT_SERVICE_UNAVAILABLE),
    ],
)
async def test_what_the_upstream_answers_decides_what_follows(
    rig: Rig, upstream: FakeUpstream, status: int, fault: int
) -> None:
    upstream.script.status = status
    async with running_worker(rig):
        job = embed(rig)
        await until(lambda: bool(job.failures))
    assert job.failures[0].fault == fault
    assert KEY not in job.failures[0].failure.message
