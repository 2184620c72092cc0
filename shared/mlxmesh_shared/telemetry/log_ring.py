"""The last log records of this process in memory, for those who read them from elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile

from mlxmesh_shared.telemetry.logs import LogRate

MAX_RECORDS = 2000
MAX_BYTES = 2 * 2**20
MAX_MESSAGE_CHARACTERS = 4096
MAX_BATCH_RECORDS = 200
_BATCH_S = 0.1
"""How long records are collected for one message to a follower."""
_OVERHEAD_BYTES = 200

LEVELS: Mapping[str, int] = {
    "": 0,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """A log record as text."""

    sequence: int
    created_s: float
    level: int
    component: str
    message: str
    trace_id: str
    fields: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """About its memory."""
        texts = (self.component, self.message, *self.fields, *self.fields.values())
        return _OVERHEAD_BYTES + sum(map(len, texts))


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records in their order, at least one."""

    records: list[KeptRecord]
    dropped: int = 0
    """Records before these that were dropped before they were read."""


class LogRing(logging.Handler):
    """Keeps the last records; any thread may log, one event loop reads."""

    def __init__(self, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._max_records, self._max_bytes = max_records, max_bytes
        self._records: deque[KeptRecord] = deque()
        self._size_bytes = 0
        self._followers: set[Callable[[], None]] = set()
        self._traces = logging.Formatter()
        self.newest = 0
        """The number of the last record; 0 before the first."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, which holds this handler's lock."""
        try:
            self._keep(self._kept(record))
        except Exception:  # noqa: BLE001 - logging must not fail its caller
            self.handleError(record)

    def _kept(self, record: logging.LogRecord) -> KeptRecord:
        fields: Mapping[str, object] = getattr(record, "fields", None) or {}
        shown = {str(name): _cut(str(value)) for name, value in fields.items()}
        if record.exc_info:
            shown["error"] = _cut(self._traces.formatException(record.exc_info))
        return KeptRecord(
            sequence=self.newest + 1,
            created_s=record.created,
            level=record.levelno,
            component=record.name,
            message=_cut(record.getMessage()),
            trace_id=getattr(record, "trace_id", ""),
            fields=shown,
        )

    def _keep(self, kept: KeptRecord) -> None:
        self._records.append(kept)
        self.newest = kept.sequence
        self._size_bytes += kept.size_bytes
        while len(self._records) > self._max_records or self._size_bytes > self._max_bytes:
            self._size_bytes -= self._records.popleft().size_bytes
        for wake in tuple(self._followers):
            wake()

    def _after(self, sequence: int) -> list[KeptRecord]:
        """The kept records with greater numbers, the oldest first."""
        assert self.lock is not None
        with self.lock:
            later = takewhile(lambda one: one.sequence > sequence, reversed(self._records))
            found = list(later)
        found.reverse()
        return found

    def tail(self, count: int, level: int) -> list[KeptRecord]:
        """The last records of at least a level, the oldest first."""
        found = [one for one in self._after(0) if one.level >= level]
        return found[-count:] if count else []

    async def follow(self, after: int, level: int) -> AsyncGenerator[RecordBatch]:
        """The records after a number as they are logged; never ends."""
        with self._woken() as woken:
            while True:
                woken.clear()
                found = self._after(after)
                dropped = found[0].sequence - after - 1 if found else 0
                after = found[-1].sequence if found else after
                wanted = [one for one in found if one.level >= level]
                for start in range(0, len(wanted), MAX_BATCH_RECORDS):
                    part = wanted[start : start + MAX_BATCH_RECORDS]
                    yield RecordBatch(part, dropped if start == 0 else 0)
                await woken.wait()
                await asyncio.sleep(_BATCH_S)

    @contextmanager
    def _woken(self) -> Generator[asyncio.Event]:
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not event.is_set():
                with suppress(RuntimeError):  # the loop has closed
                    loop.call_soon_threadsafe(event.set)

        self._followers.add(wake)
        try:
            yield event
        finally:
            self._followers.discard(wake)


def keep_log() -> LogRing:
    """Keeps the records of this process, as `setup_logging` writes them."""
    ring = LogRing()
    ring.addFilter(LogRate())
    logging.getLogger().addHandler(ring)
    return ring


def _cut(text: str) -> str:
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    return text[: MAX_MESSAGE_CHARACTERS - 3] + "..."


def level_name(level: int) -> str:
    """debug, info, warning or error."""
    names = [name for name, lowest in LEVELS.items() if name and lowest <= level]
    return names[-1] if names else "debug"
