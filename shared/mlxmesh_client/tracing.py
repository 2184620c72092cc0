"""The caller's trace goes on in the mesh, where the caller has one."""

import sys

Metadata = tuple[tuple[str, str], ...]


def trace_metadata() -> Metadata | None:
    """What a call brings along of the current OpenTelemetry span; None without one.

    A program that has a span has imported OpenTelemetry, so that nobody else need.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items()) or None
