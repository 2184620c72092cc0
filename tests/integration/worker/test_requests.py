"""Requests of batches: the body of an HTTP request in, the body of its response out."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2, worker_pb2
from mlxmesh.job.v1.worker_pb2_grpc import add_TranslationServiceServicer_to_server
from mlxmesh_gateway.openai.translation.servicer import SERVICE, TranslationServicer
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.job_service import OWNER, FakeJob
from tests.fakes.serving import serving
from tests.fakes.waiting import until
from tests.integration.worker.harness import Rig, running_rig, running_worker

COMPLETIONS = "/v1/completions"


@asynccontextmanager
async def gateway(rig: Rig, instance_id: str = "gateway-1") -> AsyncIterator[Instance]:
    """The part of a gateway that workers ask."""
    servicer = TranslationServicer(refuse_unknown=False)
    server = MeshServer(
        services=[(add_TranslationServiceServicer_to_server, servicer)], service_names=[SERVICE]
    )
    async with serving(server) as address:
        instance = Instance("gateway", instance_id, address, 0)
        await server.set_serving()
        await rig.registry.register(instance)
        yield instance


@pytest.fixture
async def rig(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path, tokenizer_dir) as running, gateway(running):
        yield running


def submit(rig: Rig, body: object, endpoint: str = COMPLETIONS, **fields: Any) -> FakeJob:
    request = worker_pb2.RequestWork(endpoint=endpoint, body_json=json.dumps(body))
    kind = job_pb2.JOB_KIND_REQUEST
    return rig.jobs.submit("batch_1:1", kind, request=request, **fields)


def response(job: FakeJob) -> tuple[int, dict[str, Any]]:
    (result,) = job.results
    return result.request.status_code, json.loads(result.request.body_json)


async def test_a_request_has_the_response_of_its_protocol(rig: Rig) -> None:
    body = {"model": "pocket", "prompt": "x", "max_tokens": 50, "seed": 3, "temperature": 1}
    expected = await rig.expected(max_tokens=50)
    async with running_worker(rig):
        job = submit(rig, body)
        await rig.ended(job)
    status, answer = response(job)
    assert (status, answer["object"]) == (200, "text_completion")
    assert answer["choices"][0]["text"] == "".join(each.delta.text for each in expected)
    result = job.results[0]
    assert (result.request.request_id, result.request.completion_tokens) == ("batch_1:1", 50)
    assert (result.used.completion_tokens, result.used.model) == (50, "pocket")
    assert not job.outputs, "requests of batches have no stream"


async def test_a_repeated_request_has_the_same_response(rig: Rig) -> None:
    body = {"model": "pocket", "prompt": "x", "max_tokens": 300, "temperature": 1, "n": 2}
    async with running_worker(rig):
        job = submit(rig, body)
        await rig.ended(job)
        first = response(job)[1]["choices"]
        submits = rig.mesh.engine.submits
        assert all(each.sampling.seed for each in submits)
        again = submit(rig, body)  # another job with the same id has the same seed
        await rig.ended(again)
    assert [each["text"] for each in response(again)[1]["choices"]] == [
        each["text"] for each in first
    ]


@pytest.mark.parametrize(
    ("body", "endpoint", "status", "code"),
    [
        ({"model": "nobody", "prompt": "x"}, COMPLETIONS, 404, "model_not_found"),
        ({"model": "pocket", "prompt": "x", "max_tokens": 0}, COMPLETIONS, 400, None),
        ({"model": "pocket"}, "/v1/chat/completions", 400, None),
        ([], COMPLETIONS, 400, None),
        (
            {"model": "pocket", "input": "x"},
            "/v1/embeddings",
            400,
            "feature_not_supported",
        ),
    ],
)
async def test_a_request_that_is_wrong_has_a_result(
    rig: Rig, body: object, endpoint: str, status: int, code: str | None
) -> None:
    async with running_worker(rig):
        job = submit(rig, body, endpoint)
        await rig.ended(job)
    found, answer = response(job)
    assert found == status, answer
    assert answer["error"]["message"]
    if code is not None:
        assert answer["error"]["code"] == code


async def test_a_model_that_the_owner_may_not_use_is_refused(rig: Rig) -> None:
    owner = worker_pb2.JobOwner()
    owner.CopyFrom(OWNER)
    owner.models.extend(["other", "sm*ll"])
    async with running_worker(rig):
        rig.jobs.owner = owner
        job = submit(rig, {"model": "pocket", "prompt": "x"})
        await rig.ended(job)
    status, answer = response(job)
    assert status == 403
    assert "pocket" in answer["error"]["message"]
    assert not rig.mesh.engine.submits


async def test_another_gateway_is_asked_when_one_is_gone(rig: Rig) -> None:
    async with gateway(rig, "gateway-0"):
        pass
    async with running_worker(rig):
        job = submit(rig, {"model": "pocket", "prompt": "x", "max_tokens": 5})
        await rig.ended(job)
    assert response(job)[0] == 200
    assert not job.failures


async def test_a_cancelled_request_frees_the_engine(rig: Rig) -> None:
    rig.mesh.engine.options.step_s = 0.01
    async with running_worker(rig):
        job = submit(rig, {"model": "pocket", "prompt": "x", "max_tokens": 900})
        await until(lambda: rig.mesh.engine.sequences == 1)
        rig.jobs.cancel("batch_1:1")
        await rig.ended(job, "cancelled")
        await until(lambda: rig.mesh.engine.sequences == 0)
