"""One run: submits jobs, breaks processes meanwhile, waits for the end, and judges."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxmesh.job.v1 import job_pb2 as pb
from tests.bench.results import Findings
from tests.chaos.jobs.calls import JobsCalls
from tests.chaos.jobs.checker import Ended
from tests.chaos.jobs.faults import Faults
from tests.chaos.jobs.figures import Outcome, findings, recoveries_of
from tests.chaos.jobs.processes import JobsMesh, Shape, database, running
from tests.chaos.jobs.record import Record
from tests.chaos.jobs.submitter import Submitter

OPEN = (
    pb.JOB_STATE_DELAYED,
    pb.JOB_STATE_WAITING,
    pb.JOB_STATE_RUNNING,
    pb.JOB_STATE_CANCELLING,
)
_POLL_S = 0.1
_READERS = 8
_MAX_SAMPLE = 300


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run."""

    jobs: int
    kills: int
    pauses: int
    database: str
    seed: int
    workers: int = 8
    slots: int = 16
    """Jobs of one connector that a worker runs at once."""
    lease_s: float = 10
    ahead: int = 2_000
    """Jobs that wait while more are submitted."""
    callers: int = 4
    silence_s: float = 120
    """After the last job was submitted, this long without an effect means that nothing goes on."""


async def play(plan: Plan, report: Callable[[str], None], folder: Path | None = None) -> Findings:
    """Runs a plan, and judges it. folder: to keep logs and the record in; must be empty."""
    with database(plan.database) as url:
        shape = Shape(
            workers=plan.workers,
            lease_s=plan.lease_s,
            database_url=url,
            environment={"MLXMESH_WORKER_SLOTS_PER_CONNECTOR": str(plan.slots)},
        )
        async with running(shape, folder) as mesh:
            return await _Trial(plan, mesh, report).run()


class _Trial:
    def __init__(self, plan: Plan, mesh: JobsMesh, report: Callable[[str], None]) -> None:
        self._plan = plan
        self._report = report
        self._calls = JobsCalls(mesh.addresses)
        self._record = Record(mesh.record)
        self._submitter = Submitter(
            self._calls,
            self._record,
            seed=plan.seed,
            jobs=plan.jobs,
            ahead=plan.ahead,
            callers=plan.callers,
        )
        self._faults = Faults(
            mesh, seed=plan.seed, kills=plan.kills, pauses=plan.pauses, report=report
        )

    async def run(self) -> Findings:
        started_s = time.monotonic()
        following = asyncio.create_task(self._follow())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._submitter.run())
                tasks.create_task(self._faults.run(lambda: self._record.effects / self._plan.jobs))
            await self._until_ended()
            ran_s = time.monotonic() - started_s
            return await self._judged(ran_s)
        finally:
            following.cancel()
            await self._calls.close()

    async def _follow(self) -> None:
        while True:
            self._record.read()
            await asyncio.sleep(_POLL_S)

    async def _until_ended(self) -> None:
        effects, since_s = -1, time.monotonic()
        while await self._calls.any(OPEN):
            if self._record.effects != effects:
                effects, since_s = self._record.effects, time.monotonic()
            if time.monotonic() - since_s > self._plan.silence_s:
                self._report(f"nothing goes on any more after {effects} effects")
                return
            await asyncio.sleep(_POLL_S)

    async def _judged(self, ran_s: float) -> Findings:
        jobs = {job.job_id: _ended(job) async for job in self._calls.listed()}
        listed = list(jobs.values())
        read = await self._read(listed)
        self._record.read()
        for job in read:
            jobs[job.job_id] = _ended(job)
        return findings(
            Outcome(
                acknowledged=self._submitter.acknowledged,
                jobs=list(jobs.values()),
                record=self._record.by_job,
                faults=self._faults.done,
                recoveries=recoveries_of(read, self._faults.done, self._record.by_job),
                failures=self._calls.failures,
                ran_s=ran_s,
            )
        )

    async def _read(self, listed: Sequence[Ended]) -> Sequence[pb.Job]:
        """Jobs that had more than one attempt, and a sample of the others."""
        again = [each.job_id for each in listed if each.attempt > 1]
        once = [each.job_id for each in listed if each.attempt == 1]
        ids = [*again, *once[:: max(1, len(once) // _MAX_SAMPLE)]]
        limit = asyncio.Semaphore(_READERS)

        async def get(job_id: str) -> pb.Job:
            async with limit:
                return await self._calls.get(job_id)

        return await asyncio.gather(*map(get, ids))


def _ended(job: pb.Job) -> Ended:
    return Ended(
        job.job_id,
        pb.JobState.Name(job.state).removeprefix("JOB_STATE_"),
        job.attempt,
        job.failure.reason,
        effect_of(job),
    )


def effect_of(job: pb.Job) -> int | None:
    """The number of the effect in its result; None without one."""
    if job.WhichOneof("result") != "connector":
        return None
    return int(json.loads(job.connector.result_json)["effect"])
