"""Kills and pauses processes in an order that the seed decides, and notes when."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.chaos.jobs.processes import JobsMesh

KILL, PAUSE = "kill -9", "SIGSTOP"
_POLL_S = 0.02
_MIN_INTERVAL_S = 0.4
_MAX_WAIT_S = 15.0
_PAUSED_JOBS_S = (0.5, 6.0)


@dataclass(frozen=True)
class Fault:
    """What was done to a process."""

    what: str
    process: str
    instance_id: str
    """As the registry called the process."""
    at_s: float
    """On the monotonic clock."""
    wall_s: float = field(default_factory=time.time)


class Faults:
    """The faults of a run. One jobs service at a time is away, so that another one serves."""

    def __init__(
        self,
        mesh: JobsMesh,
        *,
        seed: int,
        kills: int,
        pauses: int,
        report: Callable[[str], None],
    ) -> None:
        self.done: list[Fault] = []
        self._mesh = mesh
        self._chance = random.Random(seed)
        self._report = report
        self._whats = [KILL] * kills + [PAUSE] * pauses
        self._chance.shuffle(self._whats)
        self._away: set[str] = set()

    async def run(self, progress: Callable[[], float]) -> None:
        """Spreads the faults over the run; returns when all processes serve again.

        progress: the part of the run that is done.
        """
        async with asyncio.TaskGroup() as repairs:
            for number, what in enumerate(self._whats):
                await self._until(progress, (number + 0.5) / (len(self._whats) + 1))
                name = await self._next(what)
                instance = await self._mesh.instance(name)
                self._away.add(name)
                self.done.append(Fault(what, name, instance.instance_id, time.monotonic()))
                self._report(f"{what} of {name} ({instance.instance_id}), {progress():.0%} done")
                repairs.create_task(self._killed(name) if what == KILL else self._paused(name))
                await asyncio.sleep(_MIN_INTERVAL_S)

    async def _until(self, progress: Callable[[], float], part: float) -> None:
        give_up_s = time.monotonic() + _MAX_WAIT_S
        while progress() < part and time.monotonic() < give_up_s:
            await asyncio.sleep(_POLL_S)

    async def _next(self, what: str) -> str:
        """A process that serves; one of four is a jobs service."""
        while True:
            of_jobs = self._chance.random() < 0.25
            names = self._free(self._mesh.jobs if of_jobs else self._mesh.workers)
            if of_jobs and len(names) < len(self._mesh.jobs) and len(self._mesh.jobs) > 1:
                names = ()
            # A worker that is left runs what the others lost.
            if not of_jobs and what == PAUSE and len(names) <= len(self._mesh.workers) // 2:
                names = ()
            if names:
                return self._chance.choice(names)
            await asyncio.sleep(_POLL_S)

    def _free(self, names: Sequence[str]) -> Sequence[str]:
        return [name for name in names if name not in self._away]

    async def _killed(self, name: str) -> None:
        await self._mesh.kill(name)
        await self._mesh.start_one(name)
        self._away.remove(name)

    async def _paused(self, name: str) -> None:
        lease_s = self._mesh.shape.lease_s
        is_worker = name in self._mesh.workers
        shortest_s, longest_s = (1.2 * lease_s, 2 * lease_s) if is_worker else _PAUSED_JOBS_S
        self._mesh.pause(name)
        try:
            await asyncio.sleep(self._chance.uniform(shortest_s, longest_s))
        finally:
            self._mesh.resume(name)
        self._away.remove(name)
