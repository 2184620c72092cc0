"""What WorkerService refuses."""

from __future__ import annotations

from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2
from mlxmesh.job.v1 import worker_pb2 as pb
from mlxmesh.job.v1.worker_pb2_grpc import WorkerServiceStub
from mlxmesh_shared.errors import InvalidArgument

from .conftest import Service

HELLO: dict[str, Any] = {"worker_id": "w", "session": "s", "slots": 1}


async def refused(service: Service, *messages: pb.WorkRequest) -> InvalidArgument:
    """The error with which a stream ends."""

    async def converse() -> None:
        call = WorkerServiceStub(service.channel).Work()
        for message in messages:
            await call.write(message)
        await call.done_writing()
        while await call.read():
            pass

    with pytest.raises(InvalidArgument) as caught:
        await converse()
    return caught.value


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"worker_id": ""}, "hello.worker_id"),
        ({"worker_id": "a/b"}, "hello.worker_id"),
        ({"session": ""}, "hello.session"),
        ({"slots": 0}, "hello.slots"),
        ({"slots": 4097}, "hello.slots"),
        ({"kinds": [job_pb2.JOB_KIND_BATCH]}, "hello.kinds"),
        ({"kinds": [99]}, "hello.kinds[0]"),
        ({"queues": ["Night"]}, "hello.queues[0]"),
        ({"connectors": [{"name": ""}]}, "hello.connectors[0].name"),
        ({"running": [{"job_id": "j"}]}, "hello.running[0].attempt"),
        ({"running": [{"job_id": "j", "attempt": 2**63}]}, "hello.running[0].attempt"),
    ],
)
async def test_an_illegal_hello_names_the_field(
    sqlite_service: Service, fields: dict[str, Any], field: str
) -> None:
    message = pb.WorkRequest(number=1, hello=pb.Hello(**{**HELLO, **fields}))
    assert (await refused(sqlite_service, message)).field == field
    assert not (await sqlite_service.admin.ListWorkers()).workers


async def test_the_first_message_is_a_hello_and_no_other(sqlite_service: Service) -> None:
    hello = pb.WorkRequest(number=1, hello=pb.Hello(**HELLO))
    assert (await refused(sqlite_service, pb.WorkRequest(number=1))).field == "hello"
    assert (await refused(sqlite_service)).field == "hello"
    assert (await refused(sqlite_service, hello, hello)).field == "hello"


@pytest.mark.parametrize(
    ("update", "field"),
    [
        ({}, "updates[0].news"),
        ({"failure": {"failure": {"code": 3}}}, "updates[0].failure.fault"),
        ({"failure": {"failure": {"code": 3}, "fault": 99}}, "updates[0].failure.fault"),
        ({"failure": {"fault": "FAULT_JOB"}}, "updates[0].failure.failure"),
        ({"outputs": {"messages": [{}]}}, "updates[0].outputs.first"),
        ({"outputs": {"first": 2**63}}, "updates[0].outputs.first"),
        ({"progress": {"fraction": 1.5}}, "updates[0].progress.fraction"),
        ({"progress": {"fraction": float("nan")}}, "updates[0].progress.fraction"),
        ({"progress": {"done": 2**63}}, "updates[0].progress.done"),
        ({"progress": {"total": 2**63}}, "updates[0].progress.total"),
        ({"progress": {"unit": "u" * 65}}, "updates[0].progress.unit"),
        ({"progress": {"text": "t" * 1001}}, "updates[0].progress.text"),
        ({"result": {}}, "updates[0].result.result"),
        ({"result": {"embedding": {}, "cost": -0.1}}, "updates[0].result.cost"),
        ({"result": {"embedding": {}, "cost": float("inf")}}, "updates[0].result.cost"),
        *(
            (
                {"result": {"embedding": {}, "used": {name: 10**12 + 1}}},
                f"updates[0].result.used.{name}",
            )
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "device_ms")
        ),
        ({"back_end_state_json": "x" * 65_537}, "updates[0].back_end_state_json"),
        (
            {"result": {"embedding": {}, "used": {"model": "m" * 97}}},
            "updates[0].result.used.model",
        ),
    ],
)
async def test_illegal_news_name_the_field(
    sqlite_service: Service, update: dict[str, Any], field: str
) -> None:
    hello = pb.WorkRequest(number=1, hello=pb.Hello(**HELLO))
    news = pb.AttemptUpdate(id={"job_id": "j", "attempt": 1}, **update)  # pyright: ignore[reportArgumentType]
    error = await refused(sqlite_service, hello, pb.WorkRequest(number=2, updates=[news]))
    assert error.field == field
