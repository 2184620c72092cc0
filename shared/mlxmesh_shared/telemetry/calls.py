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

# As the conventions for gRPC have it: what is the server's fault, and not its caller's.
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
    """Watches a server's calls: each is measured, and has a span where it is part of a trace.

    Only the methods in `begins` begin a trace, when their caller brings none: a mesh that polls
    itself makes no traces of that.
    """

    def __init__(self, telemetry: Telemetry, *, begins: Container[str] = ()) -> None:
        self._tracer = telemetry.tracer
        self._durations = telemetry.metrics.histogram(RPC_DURATION)
        self._begins = begins

    def begin(self, method: str, context: aio.ServicerContext[Any, Any]) -> "ServedCall":
        """From here on the call's span is the current one."""
        return ServedCall(method, self._span(method, context), self._durations.record)

    def _span(self, method: str, context: aio.ServicerContext[Any, Any]) -> Span:
        parent = context_of(context.invocation_metadata())
        if not parent and method not in self._begins:
            return trace.INVALID_SPAN
        name = method.removeprefix("/")
        return self._tracer.start_span(name, parent, SpanKind.SERVER, {**_GRPC, RPC_METHOD: name})


class ServedCall:
    """One call, whose span is the current one of the task that it began in."""

    def __init__(self, method: str, span: Span, record: Callable[..., None]) -> None:
        self._method = method
        self._span = span
        self._record = record
        attach(trace.set_span_in_context(span))

    def end(self, code: StatusCode, took_s: float, ended_ns: int) -> None:
        """To be called in a copy of that context; `ended_ns` is of the wall clock."""
        labels = {**_GRPC, RPC_METHOD: self._method.removeprefix("/"), RPC_STATUS: code.name}
        self._record(took_s, labels | ({ERROR_TYPE: code.name} if code in _FAULTS else {}))
        span = self._span
        if span.is_recording():
            span.set_attribute(RPC_STATUS, code.name)
            if code in _FAULTS:
                span.set_attribute(ERROR_TYPE, code.name)
                span.set_status(Status(SpanStatus.ERROR))
        span.end(ended_ns)
