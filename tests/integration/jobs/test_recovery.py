"""What follows when workers, jobs services or attempts fail; each strategy by its own fault."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1 import worker_pb2
from mlxmesh_shared.errors import WorkerLost
from tests.fakes.job_worker import (
    WAIT_S,
    ScriptedWorker,
    completed,
    failed,
    outputs,
    progress,
    stopped,
)

from .conftest import Client, Service, Services

AT_ONCE: dict[str, Any] = {"initial_delay_ms": 1, "max_delay_ms": 1}


async def recoveries(client: Client, job_id: str) -> list[str]:
    return [each.recovery for each in (await client.job(job_id)).attempts]


async def test_the_job_of_a_killed_worker_runs_elsewhere_at_once(services: Services) -> None:
    service, _ = await services.start(lease_s=300, reconnect_s=60)
    first = await service.worker("worker-1")
    await service.ada.submit("j1")
    await first.next()
    second = await service.worker("worker-2")
    await service.kill(first)

    assignment = await second.next()
    assert assignment.id == worker_pb2.AttemptId(job_id="j1", attempt=2)
    await second.report(completed(assignment))
    assert await recoveries(service.ada, "j1") == ["worker_lost", ""]
    [lost] = service.named("WorkerLost")
    assert (lost.worker_id, lost.jobs) == ("worker-1", 1)


async def test_a_worker_that_the_registry_lists_has_a_moment_to_reconnect(
    services: Services,
) -> None:
    service, _ = await services.start(lease_s=300, reconnect_s=0.2)
    first = await service.worker("worker-1")
    await service.ada.submit("j1")
    await first.next()
    second = await service.worker("worker-2")
    await first.kill()
    assert (await second.next()).id.attempt == 2
    assert "opened none within 0.2 s" in service.named("WorkerLost")[0].reason


async def test_a_silent_worker_is_lost_and_what_it_says_later_changes_nothing(
    services: Services,
) -> None:
    service, _ = await services.start(lease_s=3)
    first = await service.worker("worker-1")
    await service.ada.submit("j1")
    old = await first.next()
    await first.pause()
    second = await service.worker("worker-2")
    new = await second.next()
    assert new.id.attempt == 2
    await second.report(outputs(new, 1, "", "new"))

    await first.connect()
    assert await asyncio.wait_for(first.fenced.get(), WAIT_S) == "j1"
    await first.report(outputs(old, 1, "", "old"), completed(old))
    assert await asyncio.wait_for(first.fenced.get(), WAIT_S) == "j1"
    job = await service.ada.job("j1")
    assert job.state == pb.JOB_STATE_RUNNING
    assert job.generation.text == "new"
    await second.report(completed(new))
    assert (await service.ada.job("j1")).state == pb.JOB_STATE_COMPLETED


async def test_a_stream_that_was_thought_lost_ends_with_the_reason(
    sqlite_services: Services,
) -> None:
    service, _ = await sqlite_services.start(lease_s=3)
    worker = await service.worker()
    heartbeats = worker._tasks.pop()
    heartbeats.cancel()
    assert isinstance(await worker.wait_ended(), WorkerLost)


async def test_a_worker_that_reconnects_goes_on_with_its_attempt(services: Services) -> None:
    service, _ = await services.start(reconnect_s=30, lease_s=30)
    worker = await service.worker()
    await service.ada.submit("j1")
    assignment = await worker.next()
    await worker.kill()
    await worker.connect()
    assert not worker.welcome.fenced
    await worker.report(completed(assignment))
    job = await service.ada.job("j1")
    assert (job.state, job.attempt) == (pb.JOB_STATE_COMPLETED, 1)


async def test_an_assignment_that_never_arrived_is_given_again(services: Services) -> None:
    service, _ = await services.start(reconnect_s=30, lease_s=30)
    worker = await service.worker()
    await service.ada.submit("j1")
    await worker.next()
    await worker.kill()
    worker.running.clear()
    await worker.connect()
    again = await worker.next()
    assert again.id.attempt == 2
    assert (await service.ada.job("j1")).failure.reason == ""


async def test_a_second_stream_of_a_session_replaces_the_first(sqlite_service: Service) -> None:
    first = await sqlite_service.worker()
    twin = ScriptedWorker(sqlite_service.channel)
    await twin.connect()
    error = await first.wait_ended()
    assert error.reason == "READER_REPLACED"
    await sqlite_service.ada.submit("j1")
    assert (await twin.next()).id.job_id == "j1"
    await twin.kill()


async def test_another_jobs_service_takes_over(services: Services) -> None:
    first, kill_first = await services.start(lease_s=30)
    second, _ = await services.start(lease_s=30)
    worker = await first.worker()
    await first.ada.submit("j1")
    assignment = await worker.next()
    await worker.report(progress(assignment, 0.1))
    await kill_first()
    await worker.wait_ended()

    await worker.connect(second.channel)
    await worker.report(completed(assignment))
    job = await second.ada.job("j1")
    assert (job.state, job.attempt) == (pb.JOB_STATE_COMPLETED, 1)
    assert not second.named("WorkerLost")
    await worker.kill()


async def test_a_worker_lost_together_with_its_jobs_service_is_found(services: Services) -> None:
    first, kill_first = await services.start(lease_s=300)
    second, _ = await services.start(lease_s=300)
    worker = await first.worker("worker-1")
    await first.ada.submit("j1")
    await worker.next()
    other = await second.worker("worker-2")
    await first.kill(worker)
    # Without what the first service notices itself.
    await kill_first()
    assert (await other.next()).id.attempt == 2
    await other.kill()


async def test_a_jobs_service_that_stops_is_not_lost(sqlite_services: Services) -> None:
    first, kill_first = await sqlite_services.start()
    second, _ = await sqlite_services.start()
    await first.jobs.drain()
    await kill_first()
    worker = await second.worker()
    await second.ada.submit("j1")
    await worker.next()
    await asyncio.sleep(0.5)  # longer than reconnect_s
    assert not second.named("WorkerLost")


async def test_a_worker_that_leaves_is_not_lost(sqlite_service: Service) -> None:
    worker = await sqlite_service.worker()
    worker.leaving = True
    await worker.report()
    await sqlite_service.kill(worker)
    other = await sqlite_service.worker("worker-2")
    await sqlite_service.ada.submit("j1")
    await other.next()
    assert not sqlite_service.named("WorkerLost")


@pytest.mark.parametrize(
    ("fault", "recovery"),
    [
        (worker_pb2.FAULT_TRANSIENT, "retry"),
        (worker_pb2.FAULT_SERVICE_UNAVAILABLE, "service_unavailable"),
        (worker_pb2.FAULT_TIMEOUT, "job_timeout"),
    ],
)
async def test_another_attempt_follows(service: Service, fault: int, recovery: str) -> None:
    worker = await service.worker()
    await service.ada.submit("j1", retry=AT_ONCE)
    await worker.report(failed(await worker.next(), fault))
    again = await worker.next()
    assert again.id.attempt == 2
    await worker.report(completed(again))
    assert await recoveries(service.ada, "j1") == [recovery, ""]
    [event] = service.named("JobAttemptFailed")
    assert (event.recovery, event.failure.reason) == (recovery, "TESTED")


async def test_a_job_that_cannot_succeed_fails_at_once(service: Service) -> None:
    worker = await service.worker()
    await service.ada.submit("j1")
    await worker.report(failed(await worker.next(), worker_pb2.FAULT_JOB))
    job = await service.ada.job("j1")
    assert (job.state, job.failure.reason) == (pb.JOB_STATE_FAILED, "TESTED")
    assert await recoveries(service.ada, "j1") == ["none"]
    assert service.named("JobFailed")[0].failure.reason == "TESTED"


async def test_a_job_fails_after_its_attempts(service: Service) -> None:
    worker = await service.worker()
    await service.ada.submit("j1", retry={**AT_ONCE, "max_attempts": 2})
    for _ in range(2):
        await worker.report(failed(await worker.next(), worker_pb2.FAULT_TRANSIENT))
    assert (await service.ada.job("j1")).state == pb.JOB_STATE_FAILED


async def test_an_unavailable_back_end_uses_up_no_attempts(service: Service) -> None:
    worker = await service.worker()
    await service.ada.submit("j1", retry={**AT_ONCE, "max_attempts": 1})
    for _ in range(3):
        await worker.report(failed(await worker.next(), worker_pb2.FAULT_SERVICE_UNAVAILABLE))
    await worker.report(completed(await worker.next()))
    assert (await service.ada.job("j1")).state == pb.JOB_STATE_COMPLETED


async def test_a_job_that_workers_die_of_is_poisoned(services: Services) -> None:
    service, _ = await services.start(lease_s=300, reconnect_s=60)
    await service.ada.submit("j1")
    for number in range(10):
        worker = await service.worker(f"worker-{number}")
        await worker.next()
        await service.kill(worker)
    job = await service.ada.until("j1", "FAILED")
    assert job.failure.reason == "POISONED"
    assert await recoveries(service.ada, "j1") == ["worker_lost"] * 9 + ["poisoned"]


async def test_a_worker_without_news_must_stop_and_another_attempt_follows(
    services: Services,
) -> None:
    service, _ = await services.start(lease_s=30, stall_timeout_s=1)
    worker = await service.worker()
    await service.ada.submit("j1", retry=AT_ONCE)
    assignment = await worker.next()
    assert await asyncio.wait_for(worker.cancelled.get(), WAIT_S) == "j1"
    await worker.report(stopped(assignment))
    assert (await worker.next()).id.attempt == 2
    assert await recoveries(service.ada, "j1") == ["worker_stuck"]
    assert (await service.ada.job("j1")).failure.reason == "WORKER_STUCK"
