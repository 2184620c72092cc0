"""Prints telemetry for people: one line per span, point and record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh_gateway.otlp.messages import failed, origin, points, text, texts

_NS_PER_S = 1_000_000_000


class ConsoleSink:
    """Writes to a stream that its caller owns."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        """Raises: OSError."""
        await self._write(_span_lines(request))

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Raises: OSError."""
        await self._write(_point_lines(request))

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        """Raises: OSError."""
        await self._write(_record_lines(request))

    async def close(self) -> None:
        """The stream stays open for its owner."""

    async def _write(self, lines: Iterator[str]) -> None:
        await asyncio.to_thread(self._write_now, "".join(f"{line}\n" for line in lines))

    def _write_now(self, lines: str) -> None:
        self._stream.write(lines)
        self._stream.flush()


def _span_lines(request: ExportTraceServiceRequest) -> Iterator[str]:
    for one in request.resource_spans:
        who = origin(one.resource)[1]
        for scope in one.scope_spans:
            for span in scope.spans:
                took_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                outcome = " FAILED" if failed(span) else ""
                yield (
                    f"{_clock(span.start_time_unix_nano)} span   {who} {span.name}"
                    f" {took_ms:.1f} ms{outcome} trace={span.trace_id.hex()}"
                )


def _point_lines(request: ExportMetricsServiceRequest) -> Iterator[str]:
    for one in request.resource_metrics:
        who = origin(one.resource)[1]
        for scope in one.scope_metrics:
            for metric in scope.metrics:
                for point in points(metric):
                    labels = _labels(texts(point.attributes))
                    when = _clock(point.time_unix_nano)
                    yield f"{when} metric {who} {metric.name}{labels} {_value(point)}"


def _record_lines(request: ExportLogsServiceRequest) -> Iterator[str]:
    for one in request.resource_logs:
        who = origin(one.resource)[1]
        for scope in one.scope_logs:
            for record in scope.log_records:
                when = _clock(record.time_unix_nano or record.observed_time_unix_nano)
                yield f"{when} log    {who} {record.severity_text} {text(record.body)}"


def _clock(unix_nano: int) -> str:
    moment = datetime.fromtimestamp(unix_nano / _NS_PER_S, UTC)
    return moment.strftime("%H:%M:%S.%f")[:-3]


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{key}={value}" for key, value in labels.items()) + "}" if labels else ""


def _value(point: Any) -> str:
    """A number, or the count and sum of a distribution."""
    if point.DESCRIPTOR.name == "NumberDataPoint":
        return f"{point.as_int or point.as_double:g}"
    return f"count={point.count} sum={point.sum:g}"
