"""OTLP's messages: their items, and the process that each belongs to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from mlxmesh_shared.settings.sinks import Signal

ExportRequest = ExportTraceServiceRequest | ExportMetricsServiceRequest | ExportLogsServiceRequest
ExportResponse = (
    ExportTraceServiceResponse | ExportMetricsServiceResponse | ExportLogsServiceResponse
)


@dataclass(frozen=True)
class OtlpService:
    """One of OTLP's services; each has the one method Export."""

    name: str
    request: type[ExportRequest]
    response: type[ExportResponse]
    rejected_field: str
    """The partial_success field with the number of rejected items."""

    def answer(self, rejected: int, message: str) -> ExportResponse:
        """The response, without partial_success if everything was accepted."""
        if not rejected:
            return self.response()
        partial = {self.rejected_field: rejected, "error_message": message}
        return self.response(partial_success=cast("Any", partial))


_COLLECTOR = "opentelemetry.proto.collector"
SERVICES: Mapping[Signal, OtlpService] = {
    "traces": OtlpService(
        f"{_COLLECTOR}.trace.v1.TraceService",
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
        "rejected_spans",
    ),
    "metrics": OtlpService(
        f"{_COLLECTOR}.metrics.v1.MetricsService",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
        "rejected_data_points",
    ),
    "logs": OtlpService(
        f"{_COLLECTOR}.logs.v1.LogsService",
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
        "rejected_log_records",
    ),
}


def text(value: AnyValue) -> str:
    """A value as text: lists as `a,b`, maps as `key=value,...`."""
    kind = value.WhichOneof("value")
    if kind is None:
        return ""
    plain: Any = getattr(value, kind)
    if kind == "bool_value":
        return "true" if plain else "false"
    if kind == "array_value":
        return ",".join(text(each) for each in plain.values)
    if kind == "kvlist_value":
        return ",".join(f"{each.key}={text(each.value)}" for each in plain.values)
    return plain.hex() if kind == "bytes_value" else str(plain)


def attribute(attributes: Any, key: str) -> str:
    """One attribute as text; empty if it is not set."""
    found: Iterator[KeyValue] = (each for each in attributes if each.key == key)
    one = next(found, None)
    return "" if one is None else text(one.value)


def texts(attributes: Any) -> dict[str, str]:
    """All attributes as text."""
    pairs: Iterator[KeyValue] = iter(attributes)
    return {each.key: text(each.value) for each in pairs}


def origin(resource: Resource) -> tuple[str, str]:
    """The service and instance that sent the telemetry."""
    return (
        attribute(resource.attributes, "service.name"),
        attribute(resource.attributes, "service.instance.id"),
    )


def is_root(span: Span, service: str) -> bool:
    """Whether a span covers a whole request; it has a parent if the client traces."""
    return not span.parent_span_id or (
        service == "gateway" and span.kind == Span.SpanKind.SPAN_KIND_SERVER
    )


def failed(span: Span) -> bool:
    """Whether it ended in an error."""
    return span.status.code == Status.StatusCode.STATUS_CODE_ERROR


def points(metric: Metric) -> Any:
    """The data points of a metric, whatever its kind."""
    kind = metric.WhichOneof("data")
    return () if kind is None else getattr(metric, kind).data_points


def item_count(request: ExportRequest) -> int:
    """Spans, metric points or log records."""
    if isinstance(request, ExportTraceServiceRequest):
        return sum(len(scope.spans) for one in request.resource_spans for scope in one.scope_spans)
    if isinstance(request, ExportLogsServiceRequest):
        return sum(
            len(scope.log_records) for one in request.resource_logs for scope in one.scope_logs
        )
    return sum(
        len(points(metric))
        for one in request.resource_metrics
        for scope in one.scope_metrics
        for metric in scope.metrics
    )
