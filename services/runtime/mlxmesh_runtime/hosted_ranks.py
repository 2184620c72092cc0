"""Ranks of other engines' groups on this host, each for as long as the call that holds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_process import EngineProcess
from mlxmesh_runtime.engine_record import EngineSpec
from mlxmesh_runtime.engine_run import START_MARK, EngineHost
from mlxmesh_shared.errors import EngineLost, IllegalState, ModelRefused

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HostedRank:
    """A rank on this host."""

    process: EngineProcess
    needed_bytes: int


class HostedRanks:
    """Spawns, watches and ends ranks."""

    def __init__(self, host: EngineHost, resident_bytes: Callable[[int], int]) -> None:
        self._host = host
        self._resident_bytes = resident_bytes
        self._ranks: dict[tuple[str, int], HostedRank] = {}

    def memory(self) -> list[tuple[int, int]]:
        """The resident and the needed bytes of each."""
        return [
            (self._resident_bytes(each.process.pid), each.needed_bytes)
            for each in self._ranks.values()
        ]

    async def run(
        self, spec: EngineSpec, place: RankPlace, needed_bytes: int
    ) -> AsyncGenerator[int]:
        """Spawns the rank, gives its process id, and kills it when the iteration ends.

        Raises: EngineLost or ModelRefused when the process has ended.
        """
        key = (spec.engine_id, place.rank)
        if key in self._ranks:
            raise IllegalState(f"rank {place.rank} of {spec.engine_id} runs here already")
        log = self._host.log_of(f"{spec.engine_id}-rank{place.rank}")
        log.rotate_if_large()
        log.append(START_MARK)
        line = self._host.command.line(spec, place=place)
        try:
            process = await EngineProcess.spawn(line, log, self._host.spare)
        except OSError as error:
            raise EngineLost(f"its process cannot be started: {error.strerror}") from error
        self._ranks[key] = HostedRank(process, needed_bytes)
        _log.info("rank %d of %s runs here", place.rank, spec.engine_id)
        try:
            yield process.pid
            how = await process.wait_for_exit()
            if (reported := await process.start_failure()) is not None:
                if reported.permanent:
                    raise ModelRefused(reported.message)
                raise EngineLost(reported.message)
            raise EngineLost(f"its process {how}")
        finally:
            self._ranks.pop(key, None)
            await asyncio.shield(process.stop(0))

    async def close(self, grace_s: float) -> None:
        """Lets each group drain, then ends what is left."""
        processes = [each.process for each in self._ranks.values()]
        await asyncio.gather(*(process.stop(grace_s) for process in processes))
