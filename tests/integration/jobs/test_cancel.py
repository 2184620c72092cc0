"""Cancelling, retrying, and deadlines."""

from __future__ import annotations

import asyncio
import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1 import worker_pb2
from mlxmesh_shared.errors import IllegalState
from tests.fakes.job_worker import WAIT_S, completed, failed, stopped

from .conftest import Service, Services


def in_ms(milliseconds: int) -> Timestamp:
    time_ = Timestamp()
    time_.FromMilliseconds(round(time.time() * 1000) + milliseconds)
    return time_


async def test_a_waiting_job_is_cancelled_at_once(service: Service) -> None:
    await service.ada.submit("j1")
    job = (await service.ada.CancelJob(job_id="j1")).job
    assert job.state == pb.JOB_STATE_CANCELLED
    assert (await service.ada.CancelJob(job_id="j1")).job == job
    assert len(service.named("JobCancelled")) == 1


async def test_a_running_job_is_cancelled_once_its_worker_has_stopped_it(service: Service) -> None:
    worker = await service.worker()
    await service.ada.submit("j1")
    assignment = await worker.next()
    job = (await service.ada.CancelJob(job_id="j1")).job
    assert job.state == pb.JOB_STATE_CANCELLING
    assert await asyncio.wait_for(worker.cancelled.get(), WAIT_S) == "j1"
    await worker.report(stopped(assignment))
    assert (await service.ada.job("j1")).state == pb.JOB_STATE_CANCELLED


async def test_a_result_that_was_there_before_the_cancellation_is_kept(service: Service) -> None:
    worker = await service.worker()
    await service.ada.submit("j1")
    assignment = await worker.next()
    await service.ada.CancelJob(job_id="j1")
    await worker.report(completed(assignment))
    assert (await service.ada.job("j1")).state == pb.JOB_STATE_COMPLETED


async def test_a_job_can_be_cancelled_through_any_jobs_service(services: Services) -> None:
    first, _ = await services.start(lease_s=30)
    second, _ = await services.start(lease_s=30)
    worker = await first.worker()
    await second.ada.submit("j1")
    await worker.next()
    await second.ada.CancelJob(job_id="j1")
    assert await asyncio.wait_for(worker.cancelled.get(), WAIT_S) == "j1"


async def test_a_job_that_failed_runs_again_when_it_is_wanted(service: Service) -> None:
    worker = await service.worker()
    await service.ada.submit("j1")
    await worker.report(failed(await worker.next(), worker_pb2.FAULT_JOB))
    assert (await service.ada.RetryJob(job_id="j1")).job.state == pb.JOB_STATE_WAITING
    again = await worker.next()
    assert again.id.attempt == 2
    await worker.report(completed(again))
    with pytest.raises(IllegalState):
        await service.ada.RetryJob(job_id="j1")


async def test_a_job_waits_until_it_may_start(service: Service) -> None:
    worker = await service.worker()
    job = await service.ada.submit("j1", not_before=in_ms(1500))
    assert job.state == pb.JOB_STATE_DELAYED
    assert job.HasField("next_attempt_time")
    assert (await worker.next()).id.job_id == "j1"


async def test_a_job_that_has_not_ended_by_its_deadline_fails(service: Service) -> None:
    worker = await service.worker(queues=["generation"])
    await service.ada.submit("waits", queue="nobody", deadline=in_ms(2500), not_before=in_ms(200))
    await service.ada.submit("runs", deadline=in_ms(3000))
    assignment = await worker.next()
    assert assignment.id.job_id == "runs"
    assert 0 < assignment.timeout_ms <= 3000
    for name in ("waits", "runs"):
        job = await service.ada.until(name, "FAILED")
        assert job.failure.reason == "DEADLINE_EXCEEDED"
    assert await asyncio.wait_for(worker.fenced.get(), WAIT_S) == "runs"
