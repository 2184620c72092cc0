"""Selects the telemetry of a sink by signal, service and severity. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from mlxmesh_gateway.otlp.messages import ExportRequest, origin
from mlxmesh_shared.settings.sinks import Signal

_LEAST = {
    "debug": SeverityNumber.SEVERITY_NUMBER_UNSPECIFIED,
    "info": SeverityNumber.SEVERITY_NUMBER_INFO,
    "warning": SeverityNumber.SEVERITY_NUMBER_WARN,
    "error": SeverityNumber.SEVERITY_NUMBER_ERROR,
}


@dataclass(frozen=True)
class Selection:
    """What one sink wants."""

    signals: Collection[Signal]
    services: Collection[str] = ()
    """Names of services; none for all."""
    severity: str = "debug"
    """The lowest severity of log records."""

    def of(self, signal: Signal, request: ExportRequest) -> ExportRequest | None:
        """The selected part; the request itself if all of it is selected, None for nothing."""
        if signal not in self.signals:
            return None
        if isinstance(request, ExportTraceServiceRequest):
            return self._traces(request)
        if isinstance(request, ExportMetricsServiceRequest):
            return self._metrics(request)
        return self._logs(request)

    def _wants(self, resource: Resource) -> bool:
        return not self.services or origin(resource)[0] in self.services

    def _traces(self, request: ExportTraceServiceRequest) -> ExportTraceServiceRequest | None:
        chosen = [one for one in request.resource_spans if self._wants(one.resource)]
        if len(chosen) == len(request.resource_spans):
            return request
        return ExportTraceServiceRequest(resource_spans=chosen) if chosen else None

    def _metrics(self, request: ExportMetricsServiceRequest) -> ExportMetricsServiceRequest | None:
        chosen = [one for one in request.resource_metrics if self._wants(one.resource)]
        if len(chosen) == len(request.resource_metrics):
            return request
        return ExportMetricsServiceRequest(resource_metrics=chosen) if chosen else None

    def _logs(self, request: ExportLogsServiceRequest) -> ExportLogsServiceRequest | None:
        if not self.services and self.severity == "debug":
            return request
        wanted = (one for one in request.resource_logs if self._wants(one.resource))
        chosen = [part for one in wanted if (part := self._severe(one)).scope_logs]
        return ExportLogsServiceRequest(resource_logs=chosen) if chosen else None

    def _severe(self, logs: ResourceLogs) -> ResourceLogs:
        chosen = ResourceLogs(resource=logs.resource, schema_url=logs.schema_url)
        for scope in logs.scope_logs:
            records = [record for record in scope.log_records if self._is_severe(record)]
            if records:
                chosen.scope_logs.add(scope=scope.scope, log_records=records)
        return chosen

    def _is_severe(self, record: LogRecord) -> bool:
        return record.severity_number >= _LEAST[self.severity]
