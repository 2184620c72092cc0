"""OpenTelemetry's SDK as the mesh uses it: without threads and globals, with bounded queues.

The import is slow: services pay for it once, commands never.
"""

import time
from collections.abc import Iterator, Mapping

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope as Scope

from mlxmesh_shared.telemetry.attributes import SIGNAL
from mlxmesh_shared.telemetry.instruments import DROPPED, Instrument
from mlxmesh_shared.telemetry.log_records import attribute
from mlxmesh_shared.telemetry.metrics import SCOPE, BucketCounts, Metrics, Reading, Telemetry
from mlxmesh_shared.telemetry.sink import BoundedQueue

MAX_SPANS = 4096
MAX_LOG_RECORDS = 4096


class Recorder:
    """Records the spans, metrics and logs of a process, and returns them as OTLP messages."""

    def __init__(
        self,
        identity: Mapping[str, str],
        *,
        sample_ratio: float = 1.0,
        max_spans: int = MAX_SPANS,
        max_log_records: int = MAX_LOG_RECORDS,
    ) -> None:
        """`identity`: the resource's attributes; `sample_ratio`: of the traces that start here."""
        self.spans: BoundedQueue[ReadableSpan] = BoundedQueue(max_spans)
        self.log_records: BoundedQueue[LogRecord] = BoundedQueue(max_log_records)
        self.lost_spans = self.lost_log_records = 0
        """Items that were drained and could not be delivered."""
        self._resource = Resource(dict(identity))
        self._log_resource = ResourceMessage(
            attributes=[attribute(name, value) for name, value in identity.items()]
        )
        self._started_ns = time.time_ns()
        self._reader = InMemoryMetricReader()
        meters = MeterProvider([self._reader], self._resource, shutdown_on_exit=False)
        tracers = TracerProvider(
            ParentBased(TraceIdRatioBased(sample_ratio)), self._resource, shutdown_on_exit=False
        )
        tracers.add_span_processor(QueueingSpanProcessor(self.spans))
        self._metrics = Metrics(meters.get_meter(SCOPE))
        self._metrics.observe(DROPPED, self._dropped)
        self.telemetry = Telemetry(tracers.get_tracer(SCOPE), self._metrics)

    def drain_spans(self, limit: int) -> ExportTraceServiceRequest:
        """Removes and encodes up to `limit` spans; about 30 us for each."""
        return encode_spans(self.spans.pop(limit))

    def drain_log_records(self, limit: int) -> ExportLogsServiceRequest:
        """Removes and encodes up to `limit` log records."""
        scope = ScopeLogs(
            scope=InstrumentationScope(name=SCOPE), log_records=self.log_records.pop(limit)
        )
        return ExportLogsServiceRequest(
            resource_logs=[ResourceLogs(resource=self._log_resource, scope_logs=[scope])]
        )

    def read_metrics(self) -> ExportMetricsServiceRequest:
        """The current values of all metrics; totals count from the start of the process."""
        metrics = ScopeMetrics(Scope(SCOPE), [*self._measured(), *self._counted()], "")
        return encode_metrics(MetricsData([ResourceMetrics(self._resource, [metrics], "")]))

    def _measured(self) -> Iterator[Metric]:
        data = self._reader.get_metrics_data()
        for of_resource in data.resource_metrics if data is not None else ():
            for of_scope in of_resource.scope_metrics:
                yield from of_scope.metrics

    def _counted(self) -> Iterator[Metric]:
        now_ns = time.time_ns()
        for instrument, counts in self._metrics.counted:
            if point := _point(counts, self._started_ns, now_ns):
                yield _histogram(instrument, point)

    def _dropped(self) -> Reading:
        return [
            (self.spans.dropped + self.lost_spans, {SIGNAL: "traces"}),
            (self.log_records.dropped + self.lost_log_records, {SIGNAL: "logs"}),
        ]


class QueueingSpanProcessor(SpanProcessor):
    """Queues every sampled span when it ends."""

    def __init__(self, queue: BoundedQueue[ReadableSpan]) -> None:
        self._queue = queue

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._queue.put(span)


def _point(counts: BucketCounts, started_ns: int, now_ns: int) -> HistogramDataPoint | None:
    by_bucket = counts.counts
    if not any(by_bucket):
        return None
    return HistogramDataPoint(
        attributes={},
        start_time_unix_nano=started_ns,
        time_unix_nano=now_ns,
        count=sum(by_bucket),
        sum=counts.total,
        bucket_counts=by_bucket,
        explicit_bounds=counts.bounds,
        min=counts.minimum,
        max=counts.maximum,
    )


def _histogram(instrument: Instrument, point: HistogramDataPoint) -> Metric:
    data = Histogram([point], AggregationTemporality.CUMULATIVE)
    return Metric(instrument.name, instrument.description, instrument.unit, data)
