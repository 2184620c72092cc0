"""Faults while the load goes on; one instance of each kind is always left alone.

The oldest engine, and the generation instance and gateway that the launcher does not look after,
live from the start to the end (the engine to the rolling restart), so that their slopes are those
of a long life.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

from mlxmesh_shared.registry import Instance
from tests.chaos.mesh import ChaosMesh, freeze, kill, thaw

FROZEN_S = 3.0
RESTART_TIMEOUT_S = 240.0


class Faults:
    """Makes one fault after the other."""

    def __init__(self, mesh: ChaosMesh, report: Callable[[str], None]) -> None:
        self.made: list[str] = []
        """Since they were last taken."""
        self._mesh = mesh
        self._report = report
        self._spared: dict[str, str] = {}

    def taken(self) -> list[str]:
        """What was made since the last time."""
        made, self.made = self.made, []
        return made

    async def run(self, every_s: float, restart_after_s: float) -> None:
        """In turns, until cancelled; all processes are restarted once, one at a time."""
        loop = asyncio.get_running_loop()
        restart_s = loop.time() + restart_after_s
        kinds: list[Callable[[], Awaitable[None]]] = [
            lambda: self._kill("engine"),
            lambda: self._kill("gateway"),
            lambda: self._freeze("engine"),
            lambda: self._kill("generation"),
            lambda: self._freeze("gateway"),
            lambda: self._kill("worker"),
            lambda: self._freeze("generation"),
        ]
        for make in itertools.cycle(kinds):
            await asyncio.sleep(every_s)
            if loop.time() >= restart_s:
                restart_s = float("inf")
                await self.restart()
                continue
            # A process may end, or be missing, while it is chosen.
            with contextlib.suppress(ProcessLookupError, StopIteration, IndexError):
                await make()

    async def restart(self) -> None:
        """`mlxmesh restart --rolling`."""
        self._note("restart --rolling")
        code, output = await self._mesh.mlxmesh("restart", "--rolling", timeout_s=RESTART_TIMEOUT_S)
        self._spared.clear()
        if code:
            self._note(f"restart --rolling exited with {code}: {output[-300:]}")

    async def _kill(self, service: str) -> None:
        victim = await self._victim(service)
        self._note(f"kill -9 {service}")
        kill(victim)

    async def _freeze(self, service: str) -> None:
        victim = await self._victim(service)
        self._note(f"freeze {service}")
        freeze(victim)
        try:
            await asyncio.sleep(FROZEN_S)
        finally:
            thaw(victim)

    async def _victim(self, service: str) -> Instance:
        """Raises: IndexError, StopIteration while there is none."""
        found = list(await self._mesh.instances(service))
        if service in ("generation", "gateway"):
            spared = (await self._mesh.added(service)).instance_id
        elif service == "engine":
            found = [one for one in found if one.metadata.get("model") == "pocket"]
            alive = {one.instance_id for one in found}
            spared = self._spared.get(service, "")
            if spared not in alive:
                spared = self._spared[service] = found[0].instance_id
        else:
            spared = ""
        return next(one for one in found if one.instance_id != spared)

    def _note(self, fault: str) -> None:
        self.made.append(fault)
        self._report(fault)
