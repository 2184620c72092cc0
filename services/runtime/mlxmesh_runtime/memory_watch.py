"""Watches the host's memory, and tells when engines have to free some and when no more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from mlxmesh_runtime.convert import memory_event_to
from mlxmesh_runtime.engines import Engines
from mlxmesh_runtime.memory_guard import Memory, MemoryGuard, MemoryLimits, MemoryStatus
from mlxmesh_shared.events import Publish, discard_event
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics

MEMORY_LIMIT = Instrument(
    "mlxmesh.runtime.memory.limit", Kind.GAUGE, "By", "Most memory that engines may use"
)
MEMORY_ENGINES = Instrument(
    "mlxmesh.runtime.memory.engines", Kind.GAUGE, "By", "Resident memory of the engines"
)
MEMORY_SHORTAGE = Instrument(
    "mlxmesh.runtime.memory.shortage",
    Kind.GAUGE,
    "By",
    "Memory that engines have to free, so that the host does not swap",
)

_log = logging.getLogger(__name__)


class MemoryWatch:
    """Samples the memory at intervals and when asked; publishes the begin and end of a shortage.

    It never stops an engine: the model service knows which one is needed least.
    """

    def __init__(
        self,
        *,
        engines: Engines,
        limits: MemoryLimits,
        read_memory: Callable[[], Awaitable[Memory]],
        runtime_id: str,
        interval_s: float = 1.0,
        publish: Publish = discard_event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = engines
        self._guard = MemoryGuard(limits)
        self._read_memory = read_memory
        self._runtime_id = runtime_id
        self._interval_s = interval_s
        self._publish = publish
        self._clock = clock
        self.status: MemoryStatus | None = None

    async def sample(self) -> MemoryStatus:
        """The memory at present."""
        memory = await self._read_memory()
        status = self._guard.observe(memory, self._engines.memory(), self._clock())
        before, self.status = self.status, status
        was_short = before is not None and before.shortage_bytes > 0
        if was_short != (status.shortage_bytes > 0):
            self._tell(status)
        return status

    async def run(self) -> NoReturn:
        """Sample until cancelled."""
        while True:
            try:
                await self.sample()
            except Exception:  # noqa: BLE001 - a failed sample must not end the engines' runtime
                _log.exception("the memory of this host cannot be read")
            await asyncio.sleep(self._interval_s)

    def observe(self, metrics: Metrics) -> None:
        """Register the metrics; each export reads the last sample."""
        metrics.observe_value(MEMORY_LIMIT, lambda: self._figure(lambda s: s.limit_bytes))
        metrics.observe_value(
            MEMORY_ENGINES, lambda: self._figure(lambda s: s.engines.resident_bytes)
        )
        metrics.observe_value(MEMORY_SHORTAGE, lambda: self._figure(lambda s: s.shortage_bytes))

    def _figure(self, read: Callable[[MemoryStatus], int]) -> int:
        return read(self.status) if self.status is not None else 0

    def _tell(self, status: MemoryStatus) -> None:
        if status.shortage_bytes:
            _log.warning(
                "memory is short: engines have to free %d MiB", status.shortage_bytes // 2**20
            )
        self._publish(memory_event_to(status), self._runtime_id)
        self._engines.announce_shortage(status.shortage_bytes)
