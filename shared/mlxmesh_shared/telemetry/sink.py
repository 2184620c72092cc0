"""Where a process's telemetry goes."""

from typing import Protocol

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class TelemetrySink(Protocol):
    """Takes OTLP's own messages. Raises: MeshError for what it cannot take."""

    async def traces(self, request: ExportTraceServiceRequest) -> None: ...
    async def metrics(self, request: ExportMetricsServiceRequest) -> None: ...
    async def logs(self, request: ExportLogsServiceRequest) -> None: ...
