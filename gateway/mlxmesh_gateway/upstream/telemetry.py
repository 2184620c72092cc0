"""Counts of the relayed streams, and the outcome of a Generate on its span."""

from dataclasses import dataclass

from opentelemetry import trace

from mlxmesh_gateway.upstream import instruments
from mlxmesh_gateway.upstream.backends import Backends
from mlxmesh_gateway.upstream.recording import Recording
from mlxmesh_shared.telemetry import attributes
from mlxmesh_shared.telemetry.metrics import Metrics, observe_breakers


@dataclass
class RelayCounts:
    """Counts over all streams since the start."""

    messages: int = 0
    resumptions: int = 0


def observe_gateway(metrics: Metrics, counts: RelayCounts, backends: Backends) -> None:
    """Registers the gateway's counts and breakers, which each export reads."""
    metrics.observe_value(instruments.RELAYED_MESSAGES, lambda: counts.messages)
    metrics.observe_value(instruments.RESUMPTIONS, lambda: counts.resumptions)
    observe_breakers(
        metrics, lambda: ((one.instance.service, one.breaker) for one in backends.endpoints())
    )


def describe_stream(recording: Recording) -> None:
    """Sets the request_id and the number of resumptions of a Generate."""
    span = trace.get_current_span()
    if span.is_recording() and recording:
        span.set_attribute(attributes.REQUEST_ID, recording.request_id)
        span.set_attribute(attributes.RESUMPTIONS, recording.resumptions)
