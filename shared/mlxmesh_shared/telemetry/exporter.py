"""Exports the recorded telemetry of a process to a sink, every second and in small slices.

While nothing is recorded it sleeps, and metrics that do not change are sent less often.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.telemetry.sdk import Recorder
from mlxmesh_shared.telemetry.sink import BoundedQueue, TelemetrySink

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

MAX_BATCH_ITEMS = 512
# Encoding holds the interpreter's lock, and an engine's MLX thread waits for it.
SLICE_ITEMS = 16


@dataclass(frozen=True)
class Pace:
    """Intervals and timeouts of the export, in seconds."""

    tick_s: float = 0.25
    export_every_s: float = 1.0
    metrics_every_s: float = 5.0
    idle_metrics_every_s: float = 15.0
    """While metrics do not change, they are read so often."""
    unchanged_metrics_every_s: float = 45.0
    """Unchanged metrics are sent so often; the Prometheus sink forgets a process after 60 s."""
    send_timeout_s: float = 5.0
    last_timeout_s: float = 1.0
    """The timeout of the last export, at the end of the process."""
    warn_every_s: float = 60.0


class BatchSender(Generic[M]):
    """Sends the batches of one signal; a batch is kept after a retryable failure, else it is lost.

    Meanwhile the queue behind it fills, and drops items that no longer fit.
    """

    def __init__(
        self,
        queue: BoundedQueue[Any],
        drain: Callable[[int], M],
        send: Callable[[M], Awaitable[None]],
    ) -> None:
        self.lost = 0
        self._queue = queue
        self._drain = drain
        self._send = send
        self._pending: tuple[M, int] | None = None

    @property
    def waiting(self) -> int:
        """Items that were recorded and not sent yet."""
        return len(self._queue) + (self._pending[1] if self._pending else 0)

    async def send_all(self) -> None:
        """Sends all items. Raises: the sink's error for the first batch that it refused."""
        while self.waiting:
            batch, items = self._pending or await self._filled()
            self._pending = None
            try:
                await self._send(batch)
            except BaseException as error:
                if isinstance(error, MeshError) and error.retryable:
                    self._pending = batch, items
                else:
                    self.lost += items
                raise

    async def _filled(self) -> tuple[M, int]:
        """The next batch, pending from its first item on: the timeout may end its encoding."""
        wanted = min(len(self._queue), MAX_BATCH_ITEMS)
        items = min(SLICE_ITEMS, wanted)
        batch = self._drain(items)
        self._pending = batch, items
        while items < wanted:
            await asyncio.sleep(0)
            slice_ = min(SLICE_ITEMS, wanted - items)
            batch.MergeFrom(self._drain(slice_))
            items += slice_
            self._pending = batch, items
        return batch, items


class Exporter:
    """Exports in a task of its own, so that a failing export never fails a call."""

    def __init__(self, recorder: Recorder, sink: TelemetrySink, pace: Pace = Pace()) -> None:
        self._recorder = recorder
        self._sink = sink
        self._pace = pace
        self._traces: BatchSender[ExportTraceServiceRequest] = BatchSender(
            recorder.spans, recorder.drain_spans, sink.traces
        )
        self._logs: BatchSender[ExportLogsServiceRequest] = BatchSender(
            recorder.log_records, recorder.drain_log_records, sink.logs
        )
        self._exported_s = self._sent_metrics_s = time.monotonic()
        self._metrics_due_s = self._exported_s + pace.metrics_every_s
        self._last_metrics = b""
        self._recorded = asyncio.Event()
        # No warning while the mesh starts: its gateway may not be running yet.
        self._warned_s = time.monotonic()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Exports while the body runs, and the rest after it, within `last_timeout_s`."""
        self._follow_queues()
        task = asyncio.create_task(self._run(), name="export-telemetry")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._last_metrics = b""
            await self._export(timeout_s=self._pace.last_timeout_s, with_metrics=True)

    def _follow_queues(self) -> None:
        """Wakes the task at the first item: any thread may record it."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._recorded.set)

        self._recorder.spans.on_first = self._recorder.log_records.on_first = wake
        if self._waiting:
            self._recorded.set()

    @property
    def _waiting(self) -> int:
        return max(self._traces.waiting, self._logs.waiting)

    async def _run(self) -> None:
        while True:
            await self._wait_until_due()
            now_s = self._exported_s = time.monotonic()
            with_metrics = now_s >= self._metrics_due_s
            await self._export(timeout_s=self._pace.send_timeout_s, with_metrics=with_metrics)

    async def _wait_until_due(self) -> None:
        """Until something was recorded, and then for more of it; or until metrics are due."""
        if not self._waiting:
            self._recorded.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._metrics_due_s - time.monotonic())):
                    await self._recorded.wait()
                # Metrics change with what is recorded.
                soon_s = time.monotonic() + self._pace.metrics_every_s
                self._metrics_due_s = min(self._metrics_due_s, soon_s)
        due_s = self._exported_s + self._pace.export_every_s
        while 0 < self._waiting < MAX_BATCH_ITEMS and time.monotonic() < due_s:  # noqa: ASYNC110  ticks see many
            await asyncio.sleep(self._pace.tick_s)

    async def _export(self, *, timeout_s: float, with_metrics: bool) -> None:
        await self._attempt(self._traces.send_all, timeout_s)
        await self._attempt(self._logs.send_all, timeout_s)
        if with_metrics:
            await self._attempt(self._send_metrics, timeout_s)
        self._recorder.lost_spans = self._traces.lost
        self._recorder.lost_log_records = self._logs.lost

    async def _send_metrics(self) -> None:
        pace, now_s = self._pace, time.monotonic()
        request = self._recorder.read_metrics()
        values = _without_times(request)
        changed = values != self._last_metrics
        self._metrics_due_s = now_s + (
            pace.metrics_every_s if changed else pace.idle_metrics_every_s
        )
        if changed or now_s - self._sent_metrics_s >= pace.unchanged_metrics_every_s:
            await self._sink.metrics(request)
            self._last_metrics, self._sent_metrics_s = values, now_s

    async def _attempt(self, export: Callable[[], Awaitable[None]], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await export()
        except Exception as error:  # noqa: BLE001 - a failing sink must not stop the process
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Logs a failed export, at most once in `warn_every_s`: each tick may fail."""
        now_s = time.monotonic()
        if now_s - self._warned_s < self._pace.warn_every_s:
            return
        self._warned_s = now_s
        fields = {
            "error": error.reason if isinstance(error, MeshError) else type(error).__name__,
            "waiting": self._traces.waiting + self._logs.waiting,
            "dropped": self._recorder.spans.dropped + self._recorder.log_records.dropped,
            "lost": self._traces.lost + self._logs.lost,
        }
        _log.warning("telemetry export failed", extra={"operation": "export", "fields": fields})


def _without_times(request: ExportMetricsServiceRequest) -> bytes:
    """The values alone, to compare them."""
    values = ExportMetricsServiceRequest()
    values.CopyFrom(request)
    for of_resource in values.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data") or "gauge").data_points:
                    point.ClearField("time_unix_nano")
    return values.SerializeToString(deterministic=True)
