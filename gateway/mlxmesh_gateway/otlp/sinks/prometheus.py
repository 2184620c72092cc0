"""A sink that Prometheus scrapes: the newest metrics of every process."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, HistogramDataPoint, Metric

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
        self._forget_stale()
        for one in request.resource_metrics:
            process = self._process(*origin(one.resource))
            for scope in one.scope_metrics:
                for metric in scope.metrics:
                    before = process.by_name.get(metric.name)
                    process.by_name[metric.name] = _with_exemplars(metric, before)

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        """Prometheus has no use for them."""

    async def close(self) -> None:
        """It holds nothing but memory."""

    def processes(self) -> Iterable[ProcessMetrics]:
        """Those that told something of late."""
        self._forget_stale()
        return self._processes.values()

    def _forget_stale(self) -> None:
        oldest_s = self._clock() - STALE_S
        self._processes = {
            key: each for key, each in self._processes.items() if each.seen_s > oldest_s
        }

    def _process(self, service: str, instance_id: str) -> ProcessMetrics:
        key = (service, instance_id)
        process = self._processes.get(key)
        if process is None:
            process = self._processes[key] = ProcessMetrics(service, instance_id, 0)
        process.seen_s = self._clock()
        return process


def _with_exemplars(metric: Metric, before: Metric | None) -> Metric:
    """The metric; an exemplar, which is told only once, stays until its bucket has a newer one."""
    if before is None or not metric.HasField("histogram"):
        return metric
    known = {_labels(point): point.exemplars for point in before.histogram.data_points}
    # The request belongs to the other sinks too.
    joined = Metric()
    joined.CopyFrom(metric)
    for point in joined.histogram.data_points:
        bounds = list(point.explicit_bounds)
        told = (*known.get(_labels(point), ()), *point.exemplars)
        newest = {bisect_left(bounds, each.as_double): each for each in told}
        kept = [Exemplar.FromString(each.SerializeToString()) for each in newest.values()]
        del point.exemplars[:]
        point.exemplars.extend(kept)
    return joined


def _labels(point: HistogramDataPoint) -> tuple[bytes, ...]:
    return tuple(sorted(each.SerializeToString(deterministic=True) for each in point.attributes))
