"""WatchJob: what was stored, then the rest as it happens, through any jobs service."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc import aio

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_shared.errors import InvalidArgument
from tests.fakes.job_worker import WAIT_S, completed, outputs, progress

from .conftest import Client, Service, Services


async def read_all(client: Client, job_id: str, after: int = 0) -> list[pb.WatchJobResponse]:
    async with asyncio.timeout(WAIT_S):
        return [each async for each in client.WatchJob(job_id=job_id, after_sequence=after)]


async def begun(
    client: Client, job_id: str
) -> tuple[pb.WatchJobResponse, asyncio.Task[list[pb.WatchJobResponse]]]:
    """The first change of a watch, and the others once it has ended."""
    call: Any = client.WatchJob(job_id=job_id)

    async def others() -> list[pb.WatchJobResponse]:
        changes: list[pb.WatchJobResponse] = []
        async with asyncio.timeout(WAIT_S):
            while (change := await call.read()) is not aio.EOF:
                changes.append(change)
        return changes

    return await call.read(), asyncio.create_task(others())


def texts(changes: list[pb.WatchJobResponse]) -> str:
    return "".join(each.output.delta.text for each in changes)


async def run_job(service: Service, *parts: str) -> None:
    worker = await service.worker()
    assignment = await worker.next()
    for number, text in enumerate(parts, 1):
        await worker.report(outputs(assignment, number, text), progress(assignment, number / 10))
    await worker.report(completed(assignment))


async def test_a_watch_has_every_output_and_ends_with_the_job(service: Service) -> None:
    await service.ada.submit("j1")
    first, watch = await begun(service.ada, "j1")
    await run_job(service, "", "He", "llo", "!")
    changes = [first, *await watch]
    assert texts(changes) == "Hello!"
    assert [each.output.sequence for each in changes if each.HasField("output")] == [1, 2, 3, 4]
    assert changes[0].job.state == pb.JOB_STATE_WAITING
    assert changes[-1].job.state == pb.JOB_STATE_COMPLETED
    sequences = [each.sequence for each in changes]
    assert sequences == sorted(sequences)


async def test_a_watch_resumes_where_another_one_was(service: Service) -> None:
    await service.ada.submit("j1")
    await run_job(service, "", "He", "llo", "!")
    whole = await read_all(service.ada, "j1")
    assert texts(whole) == "Hello!"
    for change in whole:
        rest = await read_all(service.ada, "j1", change.sequence)
        position = [each.sequence for each in whole].index(change.sequence)
        seen = [each for each in whole[: position + 1] if each.sequence <= change.sequence]
        assert texts(seen) + texts(rest) == "Hello!"
        assert rest[-1].job.state == pb.JOB_STATE_COMPLETED


async def test_a_watch_sees_what_another_jobs_service_does(services: Services) -> None:
    first, _ = await services.start(lease_s=30)
    second, _ = await services.start(lease_s=30)
    await first.ada.submit("j1")
    _, watch = await begun(second.ada, "j1")
    await run_job(first, "", "Hello")
    assert texts(await watch) == "Hello"


async def test_a_watch_of_an_ended_job_returns_it(service: Service) -> None:
    await service.ada.submit("j1")
    await service.ada.CancelJob(job_id="j1")
    sequence = (await service.ada.job("j1")).sequence
    [only] = await read_all(service.ada, "j1", sequence)
    assert only.job.state == pb.JOB_STATE_CANCELLED


async def test_a_sequence_that_no_job_has_is_refused(sqlite_service: Service) -> None:
    await sqlite_service.ada.submit("j1")
    with pytest.raises(InvalidArgument) as caught:
        await read_all(sqlite_service.ada, "j1", 2**63)
    assert caught.value.field == "after_sequence"


async def test_a_cancelled_watch_leaves_nothing_behind(sqlite_service: Service) -> None:
    await sqlite_service.ada.submit("j1")
    call: Any = sqlite_service.ada.WatchJob(job_id="j1")
    assert (await call.read()).job.job_id == "j1"
    call.cancel()
    assert (await sqlite_service.ada.CancelJob(job_id="j1")).job.state == pb.JOB_STATE_CANCELLED
