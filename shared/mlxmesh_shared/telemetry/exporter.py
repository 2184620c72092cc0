"""Hands what a process recorded to a sink: each second, in slices, and in nobody's way."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.telemetry.sdk import Recorder
from mlxmesh_shared.telemetry.sink import BoundedQueue, TelemetrySink

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

MAX_AT_ONCE = 512
# Encoding holds the interpreter's lock, which in an engine the MLX thread waits for.
SLICE = 16


@dataclass(frozen=True)
class Pace:
    """How often what is recorded goes out, and how long that may take, in seconds."""

    tick_s: float = 0.25
    export_every_s: float = 1.0
    metrics_every_s: float = 5.0
    send_timeout_s: float = 5.0
    last_timeout_s: float = 1.0
    """For what is left at the end of the process."""
    complain_every_s: float = 60.0


class Outgoing(Generic[M]):
    """One signal's way out: a batch that cannot be taken now is held, any other failure loses it.

    Meanwhile the queue behind it fills, and drops what no longer fits.
    """

    def __init__(
        self,
        queue: BoundedQueue[Any],
        take: Callable[[int], M],
        send: Callable[[M], Awaitable[None]],
    ) -> None:
        self.lost = 0
        self._queue = queue
        self._take = take
        self._send = send
        self._held: tuple[M, int] | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue) + (self._held[1] if self._held else 0)

    async def send_all(self) -> None:
        """Raises: what the sink said to the first batch that it did not take."""
        while self.waiting:
            batch, items = self._held or await self._filled()
            self._held = None
            try:
                await self._send(batch)
            except BaseException as error:
                if isinstance(error, MeshError) and error.retryable:
                    self._held = batch, items
                else:
                    self.lost += items
                raise

    async def _filled(self) -> tuple[M, int]:
        """A batch of what waits, held from the first on: time may run out while it is encoded."""
        wanted = min(len(self._queue), MAX_AT_ONCE)
        items = min(SLICE, wanted)
        batch = self._take(items)
        self._held = batch, items
        while items < wanted:
            await asyncio.sleep(0)
            slice_ = min(SLICE, wanted - items)
            batch.MergeFrom(self._take(slice_))
            items += slice_
            self._held = batch, items
        return batch, items


class Exporter:
    """Run it as a task of its own; nothing that it does can fail a call."""

    def __init__(self, recorder: Recorder, sink: TelemetrySink, pace: Pace = Pace()) -> None:
        self._recorder = recorder
        self._sink = sink
        self._pace = pace
        self._traces: Outgoing[ExportTraceServiceRequest] = Outgoing(
            recorder.spans, recorder.take_spans, sink.traces
        )
        self._logs: Outgoing[ExportLogsServiceRequest] = Outgoing(
            recorder.log_records, recorder.take_log_records, sink.logs
        )
        self._exported_s = self._metrics_s = time.monotonic()
        # While a mesh starts or stops it is no wonder that nobody is there.
        self._complained_s = time.monotonic()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Exports beside the body, and at its end what is left, if that is quickly done."""
        task = asyncio.create_task(self._run(), name="export-telemetry")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._export(timeout_s=self._pace.last_timeout_s, with_metrics=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._pace.tick_s)
            now_s = time.monotonic()
            many = max(self._traces.waiting, self._logs.waiting) >= MAX_AT_ONCE
            if many or now_s - self._exported_s >= self._pace.export_every_s:
                self._exported_s = now_s
                with_metrics = now_s - self._metrics_s >= self._pace.metrics_every_s
                if with_metrics:
                    self._metrics_s = now_s
                await self._export(timeout_s=self._pace.send_timeout_s, with_metrics=with_metrics)

    async def _export(self, *, timeout_s: float, with_metrics: bool) -> None:
        await self._attempt(self._traces.send_all, timeout_s)
        await self._attempt(self._logs.send_all, timeout_s)
        if with_metrics:
            await self._attempt(self._send_metrics, timeout_s)
        self._recorder.lost_spans = self._traces.lost
        self._recorder.lost_log_records = self._logs.lost

    async def _send_metrics(self) -> None:
        await self._sink.metrics(self._recorder.read_metrics())

    async def _attempt(self, export: Callable[[], Awaitable[None]], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await export()
        except Exception as error:  # noqa: BLE001 - whatever a sink does, serving goes on
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        """Now and then: who cannot be reached by telemetry is asked for it all the time."""
        now_s = time.monotonic()
        if now_s - self._complained_s < self._pace.complain_every_s:
            return
        self._complained_s = now_s
        fields = {
            "error": error.reason if isinstance(error, MeshError) else type(error).__name__,
            "waiting": self._traces.waiting + self._logs.waiting,
            "dropped": self._recorder.spans.dropped + self._recorder.log_records.dropped,
            "lost": self._traces.lost + self._logs.lost,
        }
        _log.warning(
            "telemetry finds nobody to take it", extra={"operation": "export", "fields": fields}
        )
