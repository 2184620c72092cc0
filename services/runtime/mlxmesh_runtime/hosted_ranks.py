"""Ranks of other engines' groups on this host, each for as long as the call that holds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_process import EngineProcess
from mlxmesh_runtime.engine_record import EngineSpec
from mlxmesh_runtime.engine_run import START_MARK, EngineHost
from mlxmesh_runtime.rank_state import RankState
from mlxmesh_shared.errors import EngineLost, IllegalState, MeshError, ModelRefused

_PROGRESS_S = 1.0

_log = logging.getLogger(__name__)


@dataclass
class HostedRank:
    """A rank on this host; without a process while its files are fetched."""

    spec: EngineSpec
    needed_bytes: int
    process: EngineProcess | None = None


class HostedRanks:
    """Spawns, watches and ends ranks."""

    def __init__(self, host: EngineHost, resident_bytes: Callable[[int], int]) -> None:
        self._host = host
        self._resident_bytes = resident_bytes
        self._ranks: dict[tuple[str, int], HostedRank] = {}

    def memory(self) -> list[tuple[int, int]]:
        """The resident and the needed bytes of each."""
        return [
            (self._resident_bytes(each.process.pid) if each.process else 0, each.needed_bytes)
            for each in self._ranks.values()
        ]

    @property
    def specs(self) -> list[EngineSpec]:
        """What runs, or will run once its files are here."""
        return [each.spec for each in self._ranks.values()]

    async def run(
        self, spec: EngineSpec, place: RankPlace, needed_bytes: int
    ) -> AsyncGenerator[RankState]:
        """Brings the files of the model to this host, says every second that this goes on, spawns
        the rank, gives its process id, and kills it when the iteration ends.

        Raises: EngineLost or ModelRefused when the process has ended; MeshError when the files
        cannot be had.
        """
        key = (spec.engine_id, place.rank)
        if key in self._ranks:
            raise IllegalState(f"rank {place.rank} of {spec.engine_id} runs here already")
        hosted = self._ranks[key] = HostedRank(spec, needed_bytes)
        try:
            locating = asyncio.create_task(self._host.files.located(spec))
            async with aclosing(self._progress(spec, locating)) as progress:
                async for state in progress:
                    yield state
            hosted.process = process = await self._spawn(locating.result(), place)
            try:
                yield RankState(process.pid)
                raise await _end_of(process)
            finally:
                # First, as the group may start again before the process has ended.
                self._ranks.pop(key, None)
                await asyncio.shield(process.stop(0))
        finally:
            if self._ranks.get(key) is hosted:
                del self._ranks[key]

    async def _progress(
        self, spec: EngineSpec, locating: asyncio.Task[EngineSpec]
    ) -> AsyncGenerator[RankState]:
        """Until the files are here; cancels their fetch if nobody waits any more."""
        try:
            while not (await asyncio.wait({locating}, timeout=_PROGRESS_S))[0]:
                yield RankState(fetch=self._host.files.progress(spec))
        finally:
            locating.cancel()
            await asyncio.wait({locating})

    async def _spawn(self, spec: EngineSpec, place: RankPlace) -> EngineProcess:
        """Raises: EngineLost."""
        log = self._host.log_of(f"{spec.engine_id}-rank{place.rank}")
        log.rotate_if_large()
        log.append(START_MARK)
        line = self._host.command.line(spec, place=place)
        try:
            process = await EngineProcess.spawn(line, log, self._host.spare)
        except OSError as error:
            raise EngineLost(f"its process cannot be started: {error.strerror}") from error
        _log.info("rank %d of %s runs here", place.rank, spec.engine_id)
        return process

    async def close(self, grace_s: float) -> None:
        """Lets each group drain, then ends what is left."""
        processes = [each.process for each in self._ranks.values() if each.process is not None]
        await asyncio.gather(*(process.stop(grace_s) for process in processes))


async def _end_of(process: EngineProcess) -> MeshError:
    """Waits for it, and returns why it has ended."""
    how = await process.wait_for_exit()
    reported = await process.start_failure()
    if reported is None:
        return EngineLost(f"its process {how}")
    return ModelRefused(reported.message) if reported.permanent else EngineLost(reported.message)
