"""A job from its submission to its end."""

from __future__ import annotations

from mlxmesh.job.v1 import job_pb2 as pb
from tests.fakes.job_worker import completed, outputs, progress

from .conftest import Service


async def test_a_job_runs_and_completes(service: Service) -> None:
    worker = await service.worker()
    job = await service.ada.submit("j1", labels={"team": "core"})
    assert (job.state, job.queue) == (pb.JOB_STATE_WAITING, "generation")

    assignment = await worker.next()
    assert assignment.id.job_id == "j1"
    assert assignment.id.attempt == 1
    assert assignment.generation.request_id == "j1"
    assert assignment.generation.sampling.HasField("seed")
    assert assignment.owner.principal == "user:ada"
    await worker.report(
        outputs(assignment, 1, "", "Hello"), progress(assignment, 0.5), outputs(assignment, 3, "!")
    )
    running = await service.ada.job("j1")
    assert running.state == pb.JOB_STATE_RUNNING
    assert running.worker_id == "worker-1"
    assert running.progress.fraction == 0.5
    assert running.generation.text == "Hello!"

    await worker.report(completed(assignment))
    ended = await service.ada.job("j1")
    assert ended.state == pb.JOB_STATE_COMPLETED
    assert ended.generation.text == "Hello!"
    assert ended.cost == 0.5
    assert ended.HasField("expire_time")
    assert [each.DESCRIPTOR.name for each in service.events] == ["WorkerConnected", "JobCompleted"]


async def test_a_job_that_waited_starts_when_a_worker_comes(service: Service) -> None:
    await service.ada.submit("j1")
    worker = await service.worker()
    assert (await worker.next()).id.job_id == "j1"
