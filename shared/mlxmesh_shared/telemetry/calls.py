"""Spans and metrics of the calls that a process serves."""

from collections.abc import Callable, Container
from typing import Any

from grpc import StatusCode, aio
from opentelemetry import trace
from opentelemetry.context import attach
from opentelemetry.trace import Span, SpanKind, Status
from opentelemetry.trace import StatusCode as SpanStatus

from mlxmesh_shared.telemetry.attributes import ERROR_TYPE, RPC_METHOD, RPC_STATUS, RPC_SYSTEM
from mlxmesh_shared.telemetry.instruments import RPC_DURATION
from mlxmesh_shared.telemetry.metrics import Telemetry
from mlxmesh_shared.telemetry.tracing import context_of

# The statuses that the conventions for gRPC count as errors of the server.
_FAULTS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
_GRPC = {RPC_SYSTEM: "grpc"}


class ServedCalls:
    """Measures the calls of a server, and records a span for each call that is part of a trace.

    Only the methods in `begins` start a trace if their caller did not: the mesh's own polls are not
    traced.
    """

    def __init__(self, telemetry: Telemetry, *, begins: Container[str] = ()) -> None:
        self._tracer = telemetry.tracer
        self._durations = telemetry.metrics.histogram(RPC_DURATION)
        self._begins = begins

    def begin(self, method: str, context: aio.ServicerContext[Any, Any]) -> "ServedCall":
        """Starts a call; its span becomes the current one."""
        return ServedCall(method, self._span(method, context), self._durations.record)

    def _span(self, method: str, context: aio.ServicerContext[Any, Any]) -> Span:
        parent = context_of(context.invocation_metadata())
        if not parent and method not in self._begins:
            return trace.INVALID_SPAN
        name = method.removeprefix("/")
        return self._tracer.start_span(name, parent, SpanKind.SERVER, {**_GRPC, RPC_METHOD: name})


class ServedCall:
    """One call; its span is the current one of the task that started it."""

    def __init__(self, method: str, span: Span, record: Callable[..., None]) -> None:
        self._method = method
        self._span = span
        self._record = record
        attach(trace.set_span_in_context(span))

    def end(self, code: StatusCode, took_s: float, ended_ns: int) -> None:
        """Ends the call, in a copy of that task's context; `ended_ns` is wall clock time."""
        labels = {**_GRPC, RPC_METHOD: self._method.removeprefix("/"), RPC_STATUS: code.name}
        self._record(took_s, labels | ({ERROR_TYPE: code.name} if code in _FAULTS else {}))
        span = self._span
        if span.is_recording():
            span.set_attribute(RPC_STATUS, code.name)
            if code in _FAULTS:
                span.set_attribute(ERROR_TYPE, code.name)
                span.set_status(Status(SpanStatus.ERROR))
        span.end(ended_ns)
