"""The current record of every engine, and a feed of changes for any number of watchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from mlxmesh_runtime.engine_record import EngineRecord
from mlxmesh_runtime.lifecycle import EngineState
from mlxmesh_shared.errors import ServiceUnavailable

# Changes of one engine are merged, so this limits the number of engines, not of changes.
MAX_PENDING_ENGINES = 1024
_SHORTAGE = ""  # no engine has this id


@dataclass(frozen=True)
class Change:
    """An engine's record after a change; `sequence` counts all changes since the runtime started.

    `record` is None once per watch, after the engines that existed when the watch started, and when
    a shortage of memory began or ended (with 0).
    """

    sequence: int
    record: EngineRecord | None
    shortage_bytes: int | None = None


class _Watcher:
    """The changes that one watcher has not read yet; only the newest one of each engine."""

    def __init__(self) -> None:
        self._pending: dict[str, Change] = {}
        self._changed = asyncio.Event()
        self._fell_behind = False

    def put(self, engine_id: str, change: Change) -> None:
        self._pending.pop(engine_id, None)  # keeps the dict ordered by sequence
        self._pending[engine_id] = change
        if len(self._pending) > MAX_PENDING_ENGINES:
            self._pending.clear()
            self._fell_behind = True
        self._changed.set()

    async def get(self) -> list[Change]:
        """Wait for changes and return all pending ones. Raises: ServiceUnavailable."""
        await self._changed.wait()
        if self._fell_behind:
            raise ServiceUnavailable("this watch fell too far behind; start a new one")
        self._changed.clear()
        changes = list(self._pending.values())
        self._pending.clear()
        return changes


class ChangeFeed:
    """Stores the latest record of every engine and publishes changes to watchers."""

    def __init__(self) -> None:
        self._sequence = 0
        self._latest: dict[str, Change] = {}
        self._watchers: set[_Watcher] = set()

    def publish(self, record: EngineRecord) -> None:
        """Store and publish a record; a STOPPED engine is published and removed."""
        self._sequence += 1
        engine_id = record.spec.engine_id
        change = Change(self._sequence, record)
        if record.state is EngineState.STOPPED:
            self._latest.pop(engine_id, None)
        else:
            self._latest[engine_id] = change
        for watcher in self._watchers:
            watcher.put(engine_id, change)

    def announce_shortage(self, shortage_bytes: int) -> None:
        """Publish that memory is short, or with 0 that it no longer is."""
        self._sequence += 1
        for watcher in self._watchers:
            watcher.put(_SHORTAGE, Change(self._sequence, None, shortage_bytes))

    def latest(self, engine_id: str) -> EngineRecord | None:
        """The last published record of an engine; None if there is none or it is STOPPED."""
        change = self._latest.get(engine_id)
        return change.record if change is not None else None

    def records(self) -> list[EngineRecord]:
        """Every engine's current record, ordered by id."""
        records = [change.record for change in self._latest.values() if change.record]
        return sorted(records, key=lambda record: record.spec.engine_id)

    async def watch(self) -> AsyncIterator[Change]:
        """Every engine's current record, then a Change without a record, then each change.

        Raises: ServiceUnavailable if the reader is too slow.
        """
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            for change in (*self._latest.values(), Change(self._sequence, None)):
                yield change
            while True:
                for change in await watcher.get():
                    yield change
        finally:
            self._watchers.discard(watcher)
