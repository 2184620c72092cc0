"""The wall clock of the jobs services is set an hour ahead and an hour back while jobs run."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from tests.chaos.jobs.calls import JobsCalls
from tests.chaos.jobs.processes import JobsMesh, Shape, database, running
from tests.chaos.jobs.record import Record
from tests.chaos.jobs.shifted_jobs import VARIABLE

HOUR_S = 3_600
ENDS_WITHIN_S = 120.0
# A busy machine may keep a process from its processor for a while: that loses no attempt here.
LEASE_S = 15
DELAY_MS = 3_000
RATED, PAUSED = "rated", "paused"


class Clock:
    """The clock of all jobs services."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, ahead_s: int) -> None:
        draft = self._file.with_suffix(".draft")
        draft.write_text(str(ahead_s))
        draft.replace(self._file)


@contextlib.asynccontextmanager
async def shifted_mesh(
    kind: str, folder: Path
) -> AsyncGenerator[tuple[JobsMesh, JobsCalls, Clock]]:
    clock = Clock(folder / "clock")
    with database(kind) as url:
        shape = Shape(
            workers=2,
            lease_s=LEASE_S,
            database_url=url,
            jobs_module="tests.chaos.jobs.shifted_jobs",
            environment={VARIABLE: str(folder / "clock")},
        )
        async with running(shape, folder) as mesh:
            calls = JobsCalls(mesh.addresses)
            try:
                await calls.set_queue(RATED, pb.QueueSettings(starts_per_second=5, burst=2))
                await calls.set_queue(PAUSED, pb.QueueSettings(paused=True))
                yield mesh, calls, clock
            finally:
                await calls.close()


def simulated(job_id: str, queue: str = "", **arguments: float) -> pb.SubmitJobRequest:
    work = pb.ConnectorWork(connector="simulation_http", arguments_json=json.dumps(arguments))
    retry = pb.RetryPolicy(initial_delay_ms=DELAY_MS, max_delay_ms=DELAY_MS)
    return pb.SubmitJobRequest(job_id=job_id, connector=work, queue=queue, retry=retry)


def fails_once(stem: str, rate: float) -> str:
    """An id with which the back end fails the first attempt and not the second one."""
    return next(
        name
        for name in (f"{stem}-{number}" for number in range(1_000))
        if random.Random(f"{name}:1").random() < rate <= random.Random(f"{name}:2").random()
    )


def work_of(stem: str) -> Sequence[pb.SubmitJobRequest]:
    """Jobs that run, that wait for another attempt, and that a rate holds back."""
    return [
        *(simulated(f"{stem}-runs-{number}", duration_s=4, steps=40) for number in range(5)),
        simulated(fails_once(f"{stem}-fails", 0.5), failure_rate=0.5),
        *(simulated(f"{stem}-rated-{number}", RATED) for number in range(25)),
    ]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_nothing_runs_twice_and_nothing_hangs(kind: str, tmp_path: Path) -> None:
    async with shifted_mesh(kind, tmp_path) as (mesh, calls, clock):
        for stem, ahead_s in (("back", -HOUR_S), ("right", 0), ("ahead", HOUR_S), ("again", 0)):
            jobs = work_of(stem)
            await calls.submit(jobs)
            [again] = [each for each in jobs if "-fails-" in each.job_id]
            await _until_attempted(calls, again.job_id)
            clock.set(ahead_s)
            ended = await calls.ended([each.job_id for each in jobs], ENDS_WITHIN_S)
            assert {each.state for each in ended} == {pb.JOB_STATE_COMPLETED}
            attempts = {each.job_id: each.attempt for each in ended}
            assert attempts.pop(again.job_id) == 2
            assert set(attempts.values()) == {1}, attempts
        record = Record(mesh.record)
        record.read()
        effects = [
            sum(each.event == "effect" for each in events) for events in record.by_job.values()
        ]
        assert set(effects) == {1}


async def _until_attempted(calls: JobsCalls, job_id: str) -> None:
    """Until the job waits for its second attempt, or, on a busy machine, has it."""
    give_up_s = time.monotonic() + ENDS_WITHIN_S
    while (job := await calls.get(job_id)).state != pb.JOB_STATE_DELAYED and job.attempt < 2:
        assert time.monotonic() < give_up_s


async def test_times_of_callers_follow_the_wall_clock(tmp_path: Path) -> None:
    async with shifted_mesh("sqlite", tmp_path) as (_mesh, calls, clock):
        later, limited = simulated("later"), simulated("limited", PAUSED)
        later.not_before.FromMilliseconds(round(1000 * (time.time() + HOUR_S / 2)))
        limited.deadline.FromMilliseconds(round(1000 * (time.time() + HOUR_S / 2)))
        await calls.submit([later, limited])
        clock.set(-HOUR_S)
        await calls.submit([simulated("meanwhile")])
        await calls.ended(["meanwhile"], ENDS_WITHIN_S)
        assert (await calls.get("later")).state == pb.JOB_STATE_DELAYED
        assert (await calls.get("limited")).state == pb.JOB_STATE_WAITING
        clock.set(HOUR_S)
        started, expired = await calls.ended(["later", "limited"], ENDS_WITHIN_S)
        assert started.state == pb.JOB_STATE_COMPLETED
        assert (expired.state, expired.attempt) == (pb.JOB_STATE_FAILED, 0)
        assert expired.failure.reason == "DEADLINE_EXCEEDED"
