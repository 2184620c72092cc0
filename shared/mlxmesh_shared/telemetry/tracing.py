"""Trace contexts between processes: W3C `traceparent` and `tracestate`, in metadata and messages.

Source: W3C Trace Context, level 2.
"""

from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

Metadata = Iterable[tuple[str, str | bytes]]

_W3C = TraceContextTextMapPropagator()


def context_of(metadata: Metadata | None) -> Context:
    """The context in a call's metadata; empty if there is none, or an invalid one."""
    carrier = {
        key: value
        for key, value in metadata or ()
        if key in (TRACEPARENT, TRACESTATE) and isinstance(value, str)
    }
    return _W3C.extract(carrier, Context()) if carrier else Context()


def context_from(traceparent: str) -> Context:
    """The context of a message's traceparent; empty if that is empty or invalid."""
    return context_of([(TRACEPARENT, traceparent)] if traceparent else None)


def metadata_of(context: Context) -> tuple[tuple[str, str], ...]:
    """The metadata of a call whose spans are children of the context's span."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return tuple(carrier.items())


def traceparent_of(span: Span) -> str:
    """The traceparent of a recorded span, for a message; empty for any other span."""
    if not span.is_recording():
        return ""
    return dict(metadata_of(trace.set_span_in_context(span, Context())))[TRACEPARENT]
