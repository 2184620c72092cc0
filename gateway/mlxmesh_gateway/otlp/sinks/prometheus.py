"""Holds the newest metrics of every process for Prometheus to scrape."""

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

from mlxmesh_gateway.otlp.messages import origin, points

STALE_S = 60.0
"""After this time without an export, a process's metrics are removed: it has ended, or exports to
another gateway."""
MAX_PROCESSES = 256
MAX_BYTES = 64 * 2**20
"""Of the metrics of all processes."""
MAX_PROCESS_BYTES = 2 * 2**20
"""Of the metrics of one process; an engine has some 30 KB."""

# The memory of a point besides its bytes on the wire.
_POINT_OVERHEAD_BYTES = 200


@dataclass
class ProcessMetrics:
    """The last export of one process."""

    service: str
    instance_id: str
    seen_s: float
    by_name: dict[str, Metric] = field(default_factory=dict[str, Metric])
    size_bytes: int = 0

    def keep(self, metric: Metric, room_bytes: int) -> bool:
        """Stores a copy in place of the previous export, if there is room."""
        before = self.by_name.get(metric.name)
        joined = _with_exemplars(metric, before)
        grows_bytes = _size_bytes(joined) - (_size_bytes(before) if before is not None else 0)
        if grows_bytes > min(room_bytes, MAX_PROCESS_BYTES - self.size_bytes):
            return False
        self.by_name[metric.name] = joined
        self.size_bytes += grows_bytes
        return True


class PrometheusSink:
    """Stores the newest state of every metric; a scrape shows `processes`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._processes: dict[tuple[str, str], ProcessMetrics] = {}
        self.left_out = 0
        """Metric points dropped for lack of room."""

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        """Ignored: Prometheus does not use them."""

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Stores them until the next export."""
        self._forget_stale()
        for one in request.resource_metrics:
            process = self._process(*origin(one.resource))
            for metric in (metric for scope in one.scope_metrics for metric in scope.metrics):
                if process is None or not process.keep(metric, self._room_bytes()):
                    self.left_out += len(points(metric))

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        """Ignored: Prometheus does not use them."""

    async def close(self) -> None:
        """Nothing to close."""

    def processes(self) -> Iterable[ProcessMetrics]:
        """The processes that exported recently."""
        self._forget_stale()
        return self._processes.values()

    def _forget_stale(self) -> None:
        oldest_s = self._clock() - STALE_S
        self._processes = {
            key: each for key, each in self._processes.items() if each.seen_s > oldest_s
        }

    def _room_bytes(self) -> int:
        return MAX_BYTES - sum(each.size_bytes for each in self._processes.values())

    def _process(self, service: str, instance_id: str) -> ProcessMetrics | None:
        """The store of its metrics; None beyond the limit of processes."""
        key = (service, instance_id)
        process = self._processes.get(key)
        if process is None:
            if len(self._processes) >= MAX_PROCESSES:
                return None
            process = self._processes[key] = ProcessMetrics(service, instance_id, 0)
        process.seen_s = self._clock()
        return process


def _size_bytes(metric: Metric) -> int:
    return metric.ByteSize() + _POINT_OVERHEAD_BYTES * (1 + len(points(metric)))


def _with_exemplars(metric: Metric, before: Metric | None) -> Metric:
    """The metric; an exemplar, exported once, stays until its bucket gets a newer one."""
    # A copy: other sinks share the request, and a reference would retain all of it.
    joined = Metric()
    joined.CopyFrom(metric)
    if before is None or not metric.HasField("histogram"):
        return joined
    known = {_labels(point): point.exemplars for point in before.histogram.data_points}
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
