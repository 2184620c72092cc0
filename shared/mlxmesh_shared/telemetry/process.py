"""The telemetry of one process: what its modules make spans and metrics with."""

from dataclasses import dataclass, field

from opentelemetry.trace import NoOpTracer, Tracer

from mlxmesh_shared.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Telemetry:
    """Handed to whoever makes spans or metrics; by default both go nowhere."""

    tracer: Tracer = field(default_factory=NoOpTracer)
    metrics: Metrics = field(default_factory=Metrics)
