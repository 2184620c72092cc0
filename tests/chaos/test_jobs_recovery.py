"""Each recovery strategy, by the fault that it is for, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from mlxmesh.job.v1 import job_pb2 as pb
from tests.chaos.jobs.calls import JobsCalls
from tests.chaos.jobs.connectors import CONNECTORS, installed
from tests.chaos.jobs.processes import SIMULATION, JobsMesh, ProcessEndedError, Shape, running
from tests.chaos.jobs.record import Record

ENDS_WITHIN_S = 90.0
# A busy machine may keep a process from its processor for a while: where nobody is lost or stuck,
# that ends no attempt.
LEASE_S = 15
STALL = {"MLXMESH_JOBS_STALL_TIMEOUT_S": "6"}
# Where a worker is to be lost.
SHORT_LEASE_S = 3
QUICK = pb.RetryPolicy(initial_delay_ms=200, max_delay_ms=1_000)


@contextlib.asynccontextmanager
async def mesh_and_calls(
    folder: Path,
    *,
    workers: int = 2,
    lease_s: float = LEASE_S,
    environment: Mapping[str, str] = {},
) -> AsyncGenerator[tuple[JobsMesh, JobsCalls]]:
    shape = Shape(
        jobs=1,
        workers=workers,
        lease_s=lease_s,
        connectors=("simulation_http", *(each.name for each in CONNECTORS)),
        environment={
            **installed(folder / "installed"),
            **environment,
        },
    )
    async with running(shape, folder) as mesh:
        calls = JobsCalls(mesh.addresses)
        try:
            yield mesh, calls
        finally:
            await calls.close()


def simulated(
    job_id: str, retry: pb.RetryPolicy = QUICK, **arguments: float
) -> pb.SubmitJobRequest:
    work = pb.ConnectorWork(connector="simulation_http", arguments_json=json.dumps(arguments))
    return pb.SubmitJobRequest(job_id=job_id, connector=work, retry=retry)


def run_by(connector: str, job_id: str) -> pb.SubmitJobRequest:
    work = pb.ConnectorWork(connector=connector)
    return pb.SubmitJobRequest(job_id=job_id, connector=work, retry=QUICK)


def not_completed(jobs: Sequence[pb.Job]) -> Sequence[str]:
    """What has become of the jobs that did not complete."""
    return [
        f"{each.job_id}: {each.failure.reason} {each.failure.message} {recoveries(each)}"
        for each in jobs
        if each.state != pb.JOB_STATE_COMPLETED
    ]


def recoveries(job: pb.Job) -> Sequence[str]:
    return [each.recovery for each in job.attempts if each.recovery]


async def supervise(mesh: JobsMesh) -> None:
    """Starts every worker again that has ended."""
    while True:
        for name in mesh.workers:
            if not mesh.runs(name):
                # A worker may die of its first job before anyone sees it in the registry.
                with contextlib.suppress(ProcessEndedError):
                    await mesh.start_one(name)
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def supervised(mesh: JobsMesh) -> AsyncGenerator[None]:
    task = asyncio.create_task(supervise(mesh))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_service_unavailable_waits_for_the_back_end(tmp_path: Path) -> None:
    async with mesh_and_calls(tmp_path) as (mesh, calls):
        ids = [f"job-{number}" for number in range(20)]
        policy = pb.RetryPolicy(max_attempts=1, initial_delay_ms=200, max_delay_ms=1_000)
        jobs = [simulated(job_id, policy, duration_s=1, steps=2) for job_id in ids]
        await calls.submit(jobs[:10])
        await asyncio.sleep(0.5)
        await mesh.kill(SIMULATION)
        await calls.submit(jobs[10:])
        await asyncio.sleep(20)
        await mesh.start_one(SIMULATION)
        ended = await calls.ended(ids, ENDS_WITHIN_S)
        # One attempt is allowed, and those that the back end's absence ended do not count.
        assert not_completed(ended) == []
        strategies = {name for each in ended for name in recoveries(each)}
        assert strategies == {"service_unavailable"}
        record = Record(mesh.record)
        record.read()
        effects = [each for events in record.by_job.values() for each in events]
        assert sum(each.event == "effect" for each in effects) == len(ids)


async def test_job_timeout_stops_the_work_and_fails_in_the_end(tmp_path: Path) -> None:
    async with mesh_and_calls(tmp_path) as (mesh, calls):
        policy = pb.RetryPolicy(max_attempts=2, initial_delay_ms=200)
        slow = simulated("slow", policy, duration_s=600, steps=6_000)
        slow.attempt_timeout_s = 4
        await calls.submit([slow, simulated("quick")])
        late, quick = await calls.ended(["slow", "quick"], ENDS_WITHIN_S)
        assert quick.state == pb.JOB_STATE_COMPLETED
        assert (late.state, late.attempt) == (pb.JOB_STATE_FAILED, 2)
        assert late.failure.reason == "DEADLINE_EXCEEDED", late.failure
        assert recoveries(late) == ["job_timeout", "job_timeout"]
        record = Record(mesh.record)
        record.read()
        events = [each.event for each in record.by_job["slow"]]
        assert events == ["began", "cancelled", "began", "cancelled"]


async def test_worker_stuck_runs_the_job_elsewhere(tmp_path: Path) -> None:
    async with mesh_and_calls(tmp_path, environment=STALL) as (_mesh, calls):
        ids = ["stuck", *(f"job-{number}" for number in range(10))]
        jobs = [run_by("hanging_http", "stuck"), *(simulated(each) for each in ids[1:])]
        await calls.submit(jobs)
        stuck, *others = await calls.ended(ids, ENDS_WITHIN_S)
        assert not_completed(others) == []
        assert (stuck.state, stuck.attempt) == (pb.JOB_STATE_COMPLETED, 2)
        assert recoveries(stuck) == ["worker_stuck"]
        assert json.loads(stuck.connector.result_json) == {"attempt": 2}


async def test_a_blocked_worker_is_lost_after_its_lease(tmp_path: Path) -> None:
    async with mesh_and_calls(tmp_path, lease_s=SHORT_LEASE_S) as (_mesh, calls):
        ids = ["blocking", *(f"job-{number}" for number in range(20))]
        jobs = [run_by("blocking_http", "blocking"), *(simulated(each) for each in ids[1:])]
        await calls.submit(jobs)
        blocking, *others = await calls.ended(ids, ENDS_WITHIN_S)
        assert not_completed(others) == []
        assert (blocking.state, blocking.attempt) == (pb.JOB_STATE_COMPLETED, 2)
        assert recoveries(blocking) == ["worker_lost"]


async def test_a_job_that_kills_its_workers_is_poisoned(tmp_path: Path) -> None:
    dying = mesh_and_calls(tmp_path, workers=3, lease_s=SHORT_LEASE_S)
    async with dying as (mesh, calls), supervised(mesh):
        ids = ["poison", *(f"job-{number}" for number in range(60))]
        jobs = [
            run_by("dying_http", "poison"),
            *(simulated(each, duration_s=1) for each in ids[1:]),
        ]
        await calls.submit(jobs)
        poison, *others = await calls.ended(ids, 2 * ENDS_WITHIN_S)
        assert not_completed(others) == []
        assert (poison.state, poison.failure.reason) == (pb.JOB_STATE_FAILED, "POISONED")
        assert recoveries(poison)[-1] == "poisoned"
        assert set(recoveries(poison)[:-1]) == {"worker_lost"}
        record = Record(mesh.record)
        record.read()
        assert record.effects == len(others)


async def test_jobs_that_wait_for_a_back_end_are_not_stuck(tmp_path: Path) -> None:
    one_slot = {"MLXMESH_WORKER_SLOTS_PER_CONNECTOR": "1", **STALL}
    async with mesh_and_calls(tmp_path, workers=1, environment=one_slot) as (_mesh, calls):
        ids = [f"job-{number}" for number in range(4)]
        # The last one waits for longer than an attempt may be silent.
        await calls.submit([simulated(each, duration_s=3, steps=30) for each in ids])
        ended = await calls.ended(ids, ENDS_WITHIN_S)
        assert not_completed(ended) == []
        assert [each.attempt for each in ended] == [1, 1, 1, 1]
