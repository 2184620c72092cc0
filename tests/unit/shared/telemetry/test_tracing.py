"""Trace contexts, as they come from others and go to others."""

import pytest
from opentelemetry import trace
from opentelemetry.context import Context

from mlxmesh_shared.telemetry.sdk import Recorder
from mlxmesh_shared.telemetry.tracing import (
    context_from,
    context_of,
    metadata_of,
    traceparent_of,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def test_a_context_goes_on_as_it_came() -> None:
    metadata = (("traceparent", TRACEPARENT), ("tracestate", "vendor=1"))
    assert metadata_of(context_of([("x", "y"), *metadata])) == metadata
    span = trace.get_current_span(context_from(TRACEPARENT)).get_span_context()
    assert (span.trace_id, span.span_id, span.is_remote) == (int(TRACE, 16), int(SPAN, 16), True)


@pytest.mark.parametrize(
    "illegal",
    ["", "xyzzy", "00-0-0-01", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "\u00e4" * 55],
)
def test_what_is_illegal_is_no_context(illegal: str) -> None:
    assert context_of([("traceparent", illegal)]) == Context()
    assert context_from(illegal) == Context()
    assert metadata_of(Context()) == ()


def test_bytes_are_no_context() -> None:
    assert context_of([("traceparent", TRACEPARENT.encode())]) == Context()
    assert context_of(None) == Context()


def test_only_a_recorded_span_is_named_in_messages() -> None:
    recorded = Recorder({}).telemetry.tracer.start_span("a")
    name = traceparent_of(recorded)
    assert context_from(name) != Context()
    assert name.startswith(f"00-{recorded.get_span_context().trace_id:032x}-")
    unrecorded = Recorder({}, sample_ratio=0).telemetry.tracer.start_span("a")
    assert (traceparent_of(unrecorded), traceparent_of(trace.INVALID_SPAN)) == ("", "")
