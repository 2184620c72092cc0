"""A histogram for places where a microsecond counts: plain counts, read now and then."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, NoOpMeter, Observation
from opentelemetry.trace import NoOpTracer, Tracer

from mlxmesh_shared.resilience.breaker import Breaker, BreakerState
from mlxmesh_shared.telemetry.attributes import BREAKER_STATE, SERVICE
from mlxmesh_shared.telemetry.instruments import BREAKERS, Instrument, Kind


class BucketCounts:
    """Counts values by upper bounds; written by one thread, read by any.

    A reader may see a value's count without its sum; the next reading has both.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.total = 0.0
        self.least = float("inf")
        self.most = float("-inf")
        self._counts = [0] * (len(self.bounds) + 1)

    def record(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        if value < self.least:
            self.least = value
        if value > self.most:
            self.most = value

    @property
    def counts(self) -> list[int]:
        """One for each bound, values up to it, and one for those beyond the last."""
        return self._counts.copy()


Labels = Mapping[str, str | int]
Reading = Iterable[tuple[float, Labels]]
"""Values, each with the labels that tell it from the others."""

SCOPE = "mlxmesh"


class Metrics:
    """Without a meter they go nowhere."""

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter or NoOpMeter(SCOPE)
        self.counted: list[tuple[Instrument, BucketCounts]] = []
        """What the exporter reads beside the meter."""

    def histogram(self, instrument: Instrument) -> Histogram:
        """To record into; about 10 us for each value."""
        return self._meter.create_histogram(
            instrument.name,
            instrument.unit,
            instrument.description,
            explicit_bucket_boundaries_advisory=instrument.bounds,
        )

    def count(self, instrument: Instrument, counts: BucketCounts) -> None:
        """Has a histogram read for each export that is counted on a hot path."""
        self.counted.append((instrument, counts))

    def observe(self, instrument: Instrument, read: Callable[[], Reading]) -> None:
        """Has a counter or gauge read for each export."""

        def observations(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for value, labels in read()]

        make = (
            self._meter.create_observable_counter
            if instrument.kind is Kind.COUNTER
            else self._meter.create_observable_gauge
        )
        make(instrument.name, [observations], instrument.unit, instrument.description)

    def observe_value(self, instrument: Instrument, read: Callable[[], float]) -> None:
        """The same, for one value without labels."""
        self.observe(instrument, lambda: [(read(), {})])


@dataclass(frozen=True)
class Telemetry:
    """Handed to whoever makes spans or metrics; by default both go nowhere."""

    tracer: Tracer = field(default_factory=NoOpTracer)
    metrics: Metrics = field(default_factory=Metrics)


def observe_breakers(
    metrics: Metrics, breakers: Callable[[], Iterable[tuple[str, Breaker]]]
) -> None:
    """Has breakers read for each export; each comes with the service that it stands in front of."""

    def read() -> Reading:
        found = [(service, breaker.state) for service, breaker in breakers()]
        counts = Counter(found)
        for service in sorted({service for service, _ in found}):
            for state in BreakerState:
                labels = {SERVICE: service, BREAKER_STATE: state.name.lower()}
                yield counts[service, state], labels

    metrics.observe(BREAKERS, read)
