"""OTLP requests of made-up processes, and sinks that record, fail or hang."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

SECOND_NS = 1_000_000_000
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


def attributes(texts: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in texts.items()]


def resource(service: str) -> Resource:
    names = {"service.name": service, "service.instance.id": f"{service}-1"}
    return Resource(attributes=attributes(names))


def span(
    trace: int,
    name: str = "work",
    *,
    number: int = 1,
    parent: int = 0,
    failed: bool = False,
    start_s: float = 100,
    took_s: float = 0.1,
    request_id: str = "",
    kind: Span.SpanKind.ValueType = Span.SpanKind.SPAN_KIND_INTERNAL,
) -> Span:
    start_ns = round(start_s * SECOND_NS)
    code = Status.StatusCode.STATUS_CODE_ERROR if failed else Status.StatusCode.STATUS_CODE_OK
    return Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=name,
        kind=kind,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=start_ns + round(took_s * SECOND_NS),
        status=Status(code=code),
        attributes=attributes({"mlxmesh.request_id": request_id} if request_id else {}),
    )


def traces(*spans: Span, service: str = "gateway") -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.resource_spans.add(resource=resource(service)).scope_spans.add(spans=spans)
    return request


def metrics(*given: Metric, service: str = "engine") -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add(resource=resource(service)).scope_metrics.add(metrics=given)
    return request


def gauge(name: str, value: float, unit: str = "") -> Metric:
    metric = Metric(name=name, unit=unit, description="A gauge.")
    metric.gauge.data_points.add(as_double=value)
    return metric


def counter(name: str, value: int, unit: str = "", **labels: str) -> Metric:
    metric = Metric(name=name, unit=unit, description="A counter.")
    metric.sum.is_monotonic = True
    metric.sum.aggregation_temporality = CUMULATIVE
    metric.sum.data_points.add(as_int=value, attributes=attributes(labels))
    return metric


def logs(*severities: str, service: str = "gateway") -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add(resource=resource(service)).scope_logs.add()
    for name in severities:
        number = SeverityNumber.Value(f"SEVERITY_NUMBER_{name.upper()}")
        record = LogRecord(severity_number=number, severity_text=name, time_unix_nano=SECOND_NS)
        record.body.string_value = f"a record of {name}"
        scope.log_records.append(record)
    return request


def span_names(requests: Iterable[ExportTraceServiceRequest]) -> list[str]:
    return [
        each.name
        for request in requests
        for one in request.resource_spans
        for scope in one.scope_spans
        for each in scope.spans
    ]


class RecordingSink:
    """Takes everything; before that it does what `obstacles` has, one for each request."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.obstacles: list[BaseException] = []
        self.open = asyncio.Event()
        self.open.set()
        self.closed = False

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        await self._take(request)

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        await self._take(request)

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        await self._take(request)

    async def close(self) -> None:
        self.closed = True

    async def _take(self, request: Any) -> None:
        await self.open.wait()
        if self.obstacles:
            raise self.obstacles.pop(0)
        self.taken.append(request)
