"""Submits the jobs of a run, each until it is acknowledged."""

from __future__ import annotations

import asyncio
import random

from tests.chaos.jobs.calls import JobsCalls
from tests.chaos.jobs.record import Record
from tests.chaos.jobs.work import job

_POLL_S = 0.05


class Submitter:
    """Several callers at once, that stay a bounded number of jobs ahead of the back end."""

    def __init__(
        self, calls: JobsCalls, record: Record, *, seed: int, jobs: int, ahead: int, callers: int
    ) -> None:
        self.acknowledged: set[str] = set()
        self._calls = calls
        self._record = record
        self._seed = seed
        self._jobs = jobs
        self._ahead = ahead
        self._callers = callers
        self._next = 0

    async def run(self) -> None:
        """Returns when every job is acknowledged."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._callers):
                tasks.create_task(self._call(random.Random(f"{self._seed} {number}")))

    async def _call(self, chance: random.Random) -> None:
        while self._next < self._jobs:
            if len(self.acknowledged) - self._record.effects > self._ahead:
                await asyncio.sleep(_POLL_S)
                continue
            first, count = self._next, chance.choice((1, 10, 50, 50))
            self._next = min(self._jobs, first + count)
            jobs = [job(self._seed, number) for number in range(first, self._next)]
            stored = await self._calls.submit(jobs)
            assert [each.job_id for each in stored] == [each.job_id for each in jobs]
            self.acknowledged.update(each.job_id for each in jobs)
