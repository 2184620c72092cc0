"""The fan-out of every process's telemetry to the recent traces and to each sink's lane."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh_gateway.otlp.lane import Lane, LaneStatus
from mlxmesh_gateway.otlp.own_metrics import own_metrics
from mlxmesh_gateway.otlp.recent_traces import RecentTraces
from mlxmesh_gateway.otlp.tail_rules import TailRules

TICK_S = 0.5
EXPIRY_INTERVAL_S = 60.0
OWN_METRICS_INTERVAL_S = 30.0


class FanOut:
    """A TelemetrySink that is never full and never waits: each sink's lane drops on its own."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        recent: RecentTraces,
        tail: TailRules,
        *,
        instance_id: str,
        left_out: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """instance_id: this gateway's, under which it reports what its sinks accepted and lost.

        left_out: how many items sinks have not kept, besides those that their lanes count.
        """
        self._lanes = lanes
        self._recent = recent
        self._tail = tail
        self._instance_id = instance_id
        self._clock = clock
        self._left_out = left_out
        self._rejected = 0
        self._has_traces = asyncio.Event()

    def reject(self, items: int) -> None:
        """Counts items rejected before they arrived here."""
        self._rejected += items

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        """Stores recent traces; forwards those that the tail rules select."""
        now_s = self._clock()
        self._recent.add(request, now_s)
        self._offer(self._tail.add(request, now_s))
        self._has_traces.set()

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Passes them on."""
        for lane in self._lanes:
            lane.offer("metrics", request)

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        """Passes them on."""
        for lane in self._lanes:
            lane.offer("logs", request)

    def statuses(self) -> list[LaneStatus]:
        """The status of each sink."""
        return [lane.status for lane in self._lanes]

    async def run(self) -> None:
        """Feeds every sink until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(lane.run())
            tasks.create_task(self._decide_traces())
            tasks.create_task(self._tell_of_sinks())

    async def settle(self, timeout_s: float) -> None:
        """Decides every trace and waits, at most timeout_s, until the queues are sent."""
        self._offer(self._tail.decided(math.inf))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(lane.wait_idle() for lane in self._lanes))

    async def _decide_traces(self) -> None:
        """Ticks while a trace is undecided; otherwise waits for traces, or until some expire."""
        while True:
            if not self._tail.holds:
                self._has_traces.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EXPIRY_INTERVAL_S):
                        await self._has_traces.wait()
            await asyncio.sleep(TICK_S)
            now_s = self._clock()
            self._recent.expire(now_s)
            self._offer(self._tail.decided(now_s))

    async def _tell_of_sinks(self) -> None:
        while True:
            own = own_metrics(self.statuses(), self._rejected + self._left_out(), self._instance_id)
            await self.metrics(own)
            await asyncio.sleep(OWN_METRICS_INTERVAL_S)

    def _offer(self, requests: Iterable[ExportTraceServiceRequest]) -> None:
        for request in requests:
            for lane in self._lanes:
                lane.offer("traces", request)
