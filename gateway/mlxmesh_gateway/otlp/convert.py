"""Converts spans and sinks to the public contract."""

from __future__ import annotations

from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh_gateway.otlp.lane import LaneStatus
from mlxmesh_gateway.otlp.messages import failed, texts
from mlxmesh_gateway.otlp.recent_traces import KeptSpan


def span_message(kept: KeptSpan) -> wire.Span:
    """One span."""
    span = kept.span()
    return wire.Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        name=span.name,
        service=kept.service,
        instance_id=kept.instance_id,
        start_unix_nano=span.start_time_unix_nano,
        duration_nano=max(0, span.end_time_unix_nano - span.start_time_unix_nano),
        attributes=texts(span.attributes),
        events=[
            wire.SpanEvent(
                name=event.name,
                unix_nano=event.time_unix_nano,
                attributes=texts(event.attributes),
            )
            for event in span.events
        ],
        failed=failed(span),
        failure=span.status.message,
    )


def sink_message(status: LaneStatus) -> wire.TelemetrySink:
    """The state of a sink."""
    return wire.TelemetrySink(
        name=status.name,
        sent_items=status.sent_items,
        dropped_items=status.dropped_items,
        queued_bytes=status.queued_bytes,
        failure_reason=status.failure_reason,
    )
