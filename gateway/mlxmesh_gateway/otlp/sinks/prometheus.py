"""A sink that Prometheus scrapes: the newest metrics of every process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from mlxmesh_gateway.otlp.messages import origin

STALE_S = 60.0
"""Without news for so long, the metrics of a process are forgotten: it has ended, or tells another
gateway now."""


@dataclass
class ProcessMetrics:
    """What one process said last."""

    service: str
    instance_id: str
    seen_s: float
    by_name: dict[str, Metric] = field(default_factory=dict[str, Metric])


class PrometheusSink:
    """Keeps the newest state of every metric; `processes` is what a scrape shows."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._processes: dict[tuple[str, str], ProcessMetrics] = {}

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        """Prometheus has no use for them."""

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Keeps them until the next ones come."""
        for one in request.resource_metrics:
            process = self._process(*origin(one.resource))
            for scope in one.scope_metrics:
                process.by_name.update((metric.name, metric) for metric in scope.metrics)

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        """Prometheus has no use for them."""

    async def close(self) -> None:
        """It holds nothing but memory."""

    def processes(self) -> Iterable[ProcessMetrics]:
        """Those that told something of late."""
        oldest_s = self._clock() - STALE_S
        fresh = {key: each for key, each in self._processes.items() if each.seen_s > oldest_s}
        self._processes = fresh
        return fresh.values()

    def _process(self, service: str, instance_id: str) -> ProcessMetrics:
        key = (service, instance_id)
        process = self._processes.get(key)
        if process is None:
            process = self._processes[key] = ProcessMetrics(service, instance_id, 0)
        process.seen_s = self._clock()
        return process
