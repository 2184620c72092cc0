"""The queue and task of one sink, so that no sink waits for another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from mlxmesh_gateway.otlp.messages import ExportRequest, item_count
from mlxmesh_gateway.otlp.selection import Selection
from mlxmesh_shared.errors import DeadlineExceeded, MeshError
from mlxmesh_shared.settings.sinks import Signal
from mlxmesh_shared.telemetry.sink import TelemetrySink

_log = logging.getLogger(__name__)

WARN_INTERVAL_S = 60.0
# An empty item has two bytes on the wire, and hundreds here.
_MIN_ITEM_BYTES = 64


@dataclass(frozen=True)
class LaneOptions:
    """The limits of a sink's queue and of its retries."""

    queue_bytes: int = 8 * 2**20
    send_timeout_s: float | None = 10.0
    """None for a sink whose sending cannot be cancelled."""
    attempts: int = 6
    backoff_min_s: float = 0.5
    backoff_max_s: float = 15.0


@dataclass(frozen=True)
class LaneStatus:
    """The status of one sink."""

    name: str
    sent_items: int
    dropped_items: int
    queued_bytes: int
    failure_reason: str
    """Of the last attempt; empty after a success."""


@dataclass(frozen=True)
class _Batch:
    signal: Signal
    request: ExportRequest
    size_bytes: int


class Lane:
    """Telemetry for one sink; `offer` queues it without waiting, `run` sends it."""

    def __init__(
        self,
        name: str,
        sink: TelemetrySink,
        selection: Selection,
        options: LaneOptions = LaneOptions(),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._send: dict[Signal, Callable[[Any], Any]] = {
            "traces": sink.traces,
            "metrics": sink.metrics,
            "logs": sink.logs,
        }
        self._selection = selection
        self._options = options
        self._clock = clock
        self._queue: deque[_Batch] = deque()
        self._queued_bytes = 0
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sent = self._dropped = 0
        self._failure = ""
        self._warn_at_s = 0.0

    @property
    def status(self) -> LaneStatus:
        """The current status."""
        return LaneStatus(self._name, self._sent, self._dropped, self._queued_bytes, self._failure)

    def offer(self, signal: Signal, request: ExportRequest) -> None:
        """Queues the part that the sink wants; drops and counts what exceeds the queue."""
        wanted = self._selection.of(signal, request)
        if wanted is None:
            return
        size_bytes = max(wanted.ByteSize(), _MIN_ITEM_BYTES * item_count(wanted))
        if self._queued_bytes + size_bytes > self._options.queue_bytes:
            self._drop(wanted, self._failure or "QUEUE_FULL")
            return
        self._queued_bytes += size_bytes
        self._queue.append(_Batch(signal, wanted, size_bytes))
        self._idle.clear()
        self._changed.set()

    async def run(self) -> None:
        """Sends what is queued, until cancelled."""
        while True:
            while self._queue:
                await self._pass_on(self._queue[0])
                batch = self._queue.popleft()
                self._queued_bytes -= batch.size_bytes
            self._idle.set()
            self._changed.clear()
            await self._changed.wait()

    async def wait_idle(self) -> None:
        """Returns once the queue is empty."""
        await self._idle.wait()

    async def _pass_on(self, batch: _Batch) -> None:
        options = self._options
        trying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(options.attempts),
            wait=wait_exponential_jitter(
                multiplier=options.backoff_min_s, max=options.backoff_max_s, jitter=0.1
            ),
            reraise=True,
        )
        try:
            async for attempt in trying:
                with attempt:
                    await self._try(batch)
        except Exception as error:  # noqa: BLE001 - one batch, or one bad sink, must not end the rest
            self._drop(batch.request, _reason(error))
            return
        self._sent += item_count(batch.request)

    async def _try(self, batch: _Batch) -> None:
        try:
            async with asyncio.timeout(self._options.send_timeout_s):
                await self._send[batch.signal](batch.request)
        except Exception as error:
            self._failure = _reason(error)
            raise
        self._failure = ""

    def _drop(self, request: ExportRequest, reason: str) -> None:
        self._dropped += item_count(request)
        if self._clock() >= self._warn_at_s:
            self._warn_at_s = self._clock() + WARN_INTERVAL_S
            fields = {"sink": self._name, "reason": reason, "dropped": self._dropped}
            _log.warning("telemetry was dropped", extra={"operation": "fan-out", "fields": fields})


def _may_pass(error: BaseException) -> bool:
    """Whether a retry may succeed."""
    if isinstance(error, MeshError):
        return error.retryable or isinstance(error, DeadlineExceeded)
    return isinstance(error, OSError)  # a timeout of asyncio's is one


def _reason(error: Exception) -> str:
    """Without the error's text, which may quote telemetry."""
    return error.reason if isinstance(error, MeshError) else type(error).__name__
