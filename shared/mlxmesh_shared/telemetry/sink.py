"""Where telemetry goes: the port between what exports it and what receives it."""

from typing import Protocol

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class TelemetrySink(Protocol):
    """Takes OTLP requests. Raises: MeshError, or OSError, when it cannot."""

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        """Takes spans."""
        ...

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Takes the points of metrics."""
        ...

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        """Takes log records."""
        ...
