"""Queues, and what workers take of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1 import worker_pb2
from mlxmesh_shared.errors import InvalidArgument, QueueNotFound
from tests.fakes.job_worker import completed

from .conftest import Service, Services


async def test_a_queue_says_why_nothing_starts(service: Service) -> None:
    await service.ada.submit("j1")
    queue = (await service.ada.GetQueue(name="generation")).queue
    assert (queue.waiting, queue.workers) == (1, 0)
    assert "no connected worker" in queue.blocked
    worker = await service.worker()
    await worker.next()
    queue = (await service.ada.GetQueue(name="generation")).queue
    assert (queue.running, queue.workers, queue.blocked) == (1, 1, "")


async def test_a_paused_queue_starts_nothing(service: Service) -> None:
    worker = await service.worker()
    await service.admin.SetQueue(name="night", settings={"paused": True})
    await service.ada.submit("paused", queue="night")
    await service.ada.submit("other")
    assert (await worker.next()).id.job_id == "other"
    assert (await service.ada.GetQueue(name="night")).queue.blocked == "the queue is paused"
    await service.admin.SetQueue(name="night", settings={})
    assert (await worker.next()).id.job_id == "paused"


async def test_a_queue_runs_only_so_many_at_once(service: Service) -> None:
    worker = await service.worker()
    await service.admin.SetQueue(name="one", settings={"max_running": 1})
    for name in ("j1", "j2"):
        await service.ada.submit(name, queue="one")
    first = await worker.next()
    assert "max_running" in (await service.ada.GetQueue(name="one")).queue.blocked
    assert worker.assigned.empty()
    await worker.report(completed(first))
    assert (await worker.next()).id.job_id == "j2"


async def test_a_queue_starts_only_so_many_a_second(service: Service) -> None:
    worker = await service.worker()
    await service.admin.SetQueue(name="slow", settings={"starts_per_second": 5, "burst": 1})
    for number in range(3):
        await service.ada.submit(f"j{number}", queue="slow")
    assert [(await worker.next()).id.job_id for _ in range(3)] == ["j0", "j1", "j2"]


async def test_higher_priorities_start_first(service: Service) -> None:
    for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 5)):
        await service.ada.submit(name, priority=priority)
    worker = await service.worker(slots=1)
    order: list[str] = []
    for _ in range(4):
        assignment = await worker.next()
        order.append(assignment.id.job_id)
        await worker.report(completed(assignment))
    assert order == ["high", "first", "second", "low"]


async def test_a_worker_takes_what_it_says(sqlite_service: Service) -> None:
    only_night = await sqlite_service.worker("worker-1", queues=["night"])
    embedding = await sqlite_service.worker("worker-2", kinds=[pb.JOB_KIND_EMBEDDING])
    await sqlite_service.ada.submit("g")
    await sqlite_service.ada.submit("n", queue="night")
    await sqlite_service.ada.submit("e", embedding={"model": "bge", "inputs": ["a"]})
    assert (await only_night.next()).id.job_id == "n"
    assert (await embedding.next()).id.job_id == "e"
    assert (await sqlite_service.ada.job("g")).state == pb.JOB_STATE_WAITING


async def test_a_worker_never_gets_more_than_its_slots(sqlite_service: Service) -> None:
    worker = await sqlite_service.worker(slots=2)
    for number in range(5):
        await sqlite_service.ada.submit(f"j{number}")
    got = [await worker.next(), await worker.next()]
    await worker.report()
    await asyncio.sleep(0.1)
    assert worker.assigned.empty()
    await worker.report(completed(got[0]))
    await worker.next()
    assert worker.assigned.empty()


async def test_a_busy_connector_gets_no_jobs(sqlite_service: Service) -> None:
    connector = worker_pb2.Connector(name="sim_http", operations=["run"])
    worker = await sqlite_service.worker(connectors=[connector])
    await worker.busy("sim_http")
    await sqlite_service.ada.submit("c", connector={"connector": "sim_http"})
    await sqlite_service.ada.submit("g")
    await sqlite_service.ada.until("g", "RUNNING")
    assert (await sqlite_service.ada.job("c")).state == pb.JOB_STATE_WAITING


async def test_unknown_and_illegal_queues(sqlite_service: Service) -> None:
    with pytest.raises(QueueNotFound):
        await sqlite_service.ada.GetQueue(name="none")
    illegal: list[tuple[dict[str, Any], str]] = [
        ({"burst": 1}, "settings.burst"),
        ({"starts_per_second": -1}, "settings.starts_per_second"),
        ({"starts_per_second": float("nan")}, "settings.starts_per_second"),
        ({"max_running": 100_001}, "settings.max_running"),
    ]
    for settings, field in illegal:
        with pytest.raises(InvalidArgument) as caught:
            await sqlite_service.admin.SetQueue(name="q", settings=settings)
        assert caught.value.field == field
    with pytest.raises(InvalidArgument):
        await sqlite_service.admin.SetQueue(name="q")


async def test_all_workers_are_listed_by_any_jobs_service(services: Services) -> None:
    first, _ = await services.start(lease_s=30)
    second, _ = await services.start(lease_s=30)
    end = pb.BackEnd(connector="sim_http", name="sim", healthy=True, operations=["run"])
    connector = worker_pb2.Connector(name="sim_http", operations=["run"])
    await first.worker("worker-1", connectors=[connector], back_ends=[end])
    await second.worker("worker-2", slots=7)

    async with asyncio.timeout(30):
        while len((await second.admin.ListWorkers()).workers) < 2:
            await asyncio.sleep(0.05)
        while not (await second.admin.ListWorkers()).workers[0].back_ends:
            await asyncio.sleep(0.05)
    workers = (await second.admin.ListWorkers()).workers
    assert [(each.worker_id, each.slots, each.host) for each in workers] == [
        ("worker-1", 4, "host-1"),
        ("worker-2", 7, "host-1"),
    ]
    assert list(workers[0].back_ends) == [end]
    job = await second.ada.submit(connector={"connector": "sim_http"})
    assert job.summary == "run by sim_http"
    names = [each.name for each in (await second.ada.ListQueues()).queues]
    assert names == ["sim_http"]
