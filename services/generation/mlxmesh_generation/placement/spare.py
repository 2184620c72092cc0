"""Runs sequences only while no caller's sequence runs on the same host."""

from collections.abc import Callable, Collection
from typing import Protocol

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.placement.sequence import EngineSequence, SequenceRequest, SequenceSink
from mlxmesh_shared.errors import EngineLost

SETTLE_S = 0.1
"""How long a host must have been idle: a caller's next request often follows its last one."""
Yield = Callable[[], None]
"""Ends spare work at once."""


def host_of(address: str) -> str:
    """The host of an engine's address; the engines of one host share its device."""
    return address.rpartition(":")[0]


class SpareWork:
    """The spare work that runs, by host. Pure."""

    def __init__(self) -> None:
        self._running: dict[str, list[Yield]] = {}

    def add(self, host: str, end: Yield) -> None:
        """Work runs on a host; `end` must release its engine at once."""
        self._running.setdefault(host, []).append(end)

    def remove(self, host: str, end: Yield) -> None:
        """It has ended; a no-op if it had to yield."""
        running = self._running.get(host, [])
        if end in running:
            running.remove(end)
        if not running:
            self._running.pop(host, None)

    def yield_host(self, host: str) -> None:
        """Ends all that runs on a host."""
        # Mostly there is none, and this is called for every sequence.
        for end in self._running.pop(host, ()):
            end()

    @property
    def hosts(self) -> Collection[str]:
        """Where there is some."""
        return tuple(self._running)


class SpareEngines(Protocol):
    """Places spare sequences; `Engines` does."""

    def has_room(self, model: str, version: int) -> bool:
        """Whether an engine of a version is on a host that had no caller's sequence of late."""
        ...

    def place_spare(
        self, version: ModelVersion, request: SequenceRequest, sink: SequenceSink, end: Yield
    ) -> EngineSequence:
        """Submits a sequence; `end` is called once the host is needed, and must drop it.

        Raises: QueueFull without room.
        """
        ...

    def end_spare(self, end: Yield) -> None:
        """The sequence has ended; a no-op if it was never placed."""
        ...

    def yield_to_others(self) -> None:
        """Ends the spare work on hosts where another process has placed a sequence."""
        ...


class SparePlacer:
    """Satisfies Placer for one spare sequence, which is never resumed."""

    def __init__(self, engines: SpareEngines, end: Yield) -> None:
        self._engines = engines
        self._end = end

    def place(
        self,
        version: ModelVersion,
        request: SequenceRequest,
        sink: SequenceSink,
        *,
        avoid: Collection[str],
    ) -> EngineSequence:
        return self._engines.place_spare(version, request, sink, self._end)

    async def wait_for_replica(self, version: ModelVersion) -> None:
        raise EngineLost(f"the engine of {version} was lost, and a repetition is not resumed")
