"""The engines as they are, and every change of them, for any number of watchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from mlxmesh_runtime.engine_record import EngineRecord
from mlxmesh_runtime.lifecycle import EngineState
from mlxmesh_shared.errors import ServiceUnavailable

# Changes of one engine are merged, so only a watcher that misses this many engines falls behind.
MAX_PENDING_ENGINES = 1024


@dataclass(frozen=True)
class Change:
    """An engine after its change; `sequence` counts all changes since the runtime started.

    `record` is None once in a watch: after the engines that were there when it started.
    """

    sequence: int
    record: EngineRecord | None


class _Watcher:
    """What one watcher has not seen yet, the newest change of each engine only."""

    def __init__(self) -> None:
        self._pending: dict[str, Change] = {}
        self._news = asyncio.Event()
        self._fell_behind = False

    def put(self, engine_id: str, change: Change) -> None:
        self._pending.pop(engine_id, None)  # so that the dict stays in the order of sequences
        self._pending[engine_id] = change
        if len(self._pending) > MAX_PENDING_ENGINES:
            self._pending.clear()
            self._fell_behind = True
        self._news.set()

    async def take(self) -> list[Change]:
        """Wait for changes and take them all. Raises: ServiceUnavailable."""
        await self._news.wait()
        if self._fell_behind:
            raise ServiceUnavailable("this watch fell too far behind; start it again")
        self._news.clear()
        changes = list(self._pending.values())
        self._pending.clear()
        return changes


class ChangeFeed:
    """Holds the latest record of every engine and hands changes to watchers."""

    def __init__(self) -> None:
        self._sequence = 0
        self._latest: dict[str, Change] = {}
        self._watchers: set[_Watcher] = set()

    def publish(self, record: EngineRecord) -> None:
        """Make this the engine's record; a STOPPED one is told to watchers and forgotten."""
        self._sequence += 1
        engine_id = record.spec.engine_id
        change = Change(self._sequence, record)
        if record.state is EngineState.STOPPED:
            self._latest.pop(engine_id, None)
        else:
            self._latest[engine_id] = change
        for watcher in self._watchers:
            watcher.put(engine_id, change)

    def latest(self, engine_id: str) -> EngineRecord | None:
        """An engine as it was last published; None before, and once it was STOPPED."""
        change = self._latest.get(engine_id)
        return change.record if change is not None else None

    def records(self) -> list[EngineRecord]:
        """Every engine as it is, by id."""
        records = [change.record for change in self._latest.values() if change.record]
        return sorted(records, key=lambda record: record.spec.engine_id)

    async def watch(self) -> AsyncIterator[Change]:
        """Every engine as it is, then one Change without a record, then changes as they happen.

        Raises: ServiceUnavailable when the reader is too slow.
        """
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            for change in (*self._latest.values(), Change(self._sequence, None)):
                yield change
            while True:
                for change in await watcher.take():
                    yield change
        finally:
            self._watchers.discard(watcher)
