"""How a metric is declared, and the metrics that every process can have.

Each service declares its own in its module `instruments`; docs/operations.md lists all of them.
"""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How a metric is recorded."""

    HISTOGRAM = "histogram"
    """Recorded once for each call or request."""
    COUNTED_HISTOGRAM = "counted histogram"
    """Counted in BucketCounts on a hot path, and read at each export."""
    COUNTER = "counter"
    """A total, read at each export."""
    GAUGE = "gauge"
    """A current value, read at each export."""


@dataclass(frozen=True)
class Instrument:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    description: str
    bounds: tuple[float, ...] = ()
    """The upper bounds of a histogram's buckets."""


TOKEN_TIME_BOUNDS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1.0,
    2.5,
)
"""Of engine steps and of the time per output token, so that the two can be compared."""
_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

# Name, unit and bounds of OpenTelemetry's semantic conventions.
RPC_DURATION = Instrument(
    "rpc.server.call.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the calls that a process served, by method and status",
    _CALL_S,
)
HTTP_DURATION = Instrument(
    "http.server.request.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the requests that a gateway served by HTTP, by route and status",
    _CALL_S,
)
BREAKERS = Instrument(
    "mlxmesh.breaker.state",
    Kind.GAUGE,
    "{instance}",
    "Instances by the state of their breaker: closed, open or half_open",
)
DROPPED = Instrument(
    "mlxmesh.telemetry.dropped",
    Kind.COUNTER,
    "{item}",
    "Spans and log records that this process lost, by signal",
)
