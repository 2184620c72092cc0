"""An OTLP receiver in this process: real gRPC, and everything that came in order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from grpc import aio
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

PATIENCE_S = 30.0


@dataclass(frozen=True)
class ReceivedSpan:
    """A span, and the process that sent it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    start_ns: int
    end_ns: int
    failed: bool


@dataclass
class Received:
    """Satisfies TelemetrySink."""

    spans: list[ReceivedSpan] = field(default_factory=list[ReceivedSpan])
    log_records: list[LogRecord] = field(default_factory=list[LogRecord])
    metrics_by_service: dict[str, dict[str, Metric]] = field(
        default_factory=dict[str, dict[str, Metric]]
    )
    raw: list[bytes] = field(default_factory=list[bytes])
    """Every message as it came."""

    async def traces(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        self.raw.append(request.SerializeToString())
        for group in request.resource_spans:
            service = values(group.resource.attributes)["service.name"]
            self.spans += [
                _span(service, one) for scope in group.scope_spans for one in scope.spans
            ]

    async def metrics(self, request: metrics_service_pb2.ExportMetricsServiceRequest) -> None:
        self.raw.append(request.SerializeToString())
        for group in request.resource_metrics:
            service = values(group.resource.attributes)["service.name"]
            known = self.metrics_by_service.setdefault(service, {})
            known |= {one.name: one for scope in group.scope_metrics for one in scope.metrics}

    async def logs(self, request: logs_service_pb2.ExportLogsServiceRequest) -> None:
        self.raw.append(request.SerializeToString())
        for group in request.resource_logs:
            for scope in group.scope_logs:
                self.log_records += scope.log_records

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    def children(self, parent: ReceivedSpan) -> list[ReceivedSpan]:
        """Those directly below a span, in the order in which they began."""
        below = [
            span
            for span in self.spans
            if (span.trace_id, span.parent_id) == (parent.trace_id, parent.span_id)
        ]
        return sorted(below, key=lambda span: span.start_ns)

    async def wait_for(self, holds: Callable[[Received], bool]) -> None:
        """Returns once what was received is as wanted. Raises: TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(self):
                await asyncio.sleep(0.05)


def values(attributes: Iterator[KeyValue] | Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {each.key: _plain(each.value) for each in attributes}


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def _span(service: str, span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=values(span.attributes),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
    )


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    async def Export(self, request: Any, context: Any) -> Any:
        await self._received.traces(request)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    async def Export(self, request: Any, context: Any) -> Any:
        await self._received.metrics(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


class _Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    async def Export(self, request: Any, context: Any) -> Any:
        await self._received.logs(request)
        return logs_service_pb2.ExportLogsServiceResponse()


@contextlib.asynccontextmanager
async def collector(received: Received, listen: str = "127.0.0.1:0") -> AsyncGenerator[str]:
    """Serves OTLP on the loopback address; yields host:port."""
    server = aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(received), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(received), server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Logs(received), server)
    port = server.add_insecure_port(listen)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextlib.contextmanager
def collector_beside(received: Received) -> Iterator[str]:
    """The same for tests whose event loops come and go: on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="collector")
    thread.start()
    context = collector(received)
    try:
        address = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(PATIENCE_S)
        try:
            yield address
        finally:
            leaving = context.__aexit__(None, None, None)
            asyncio.run_coroutine_threadsafe(leaving, loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()
