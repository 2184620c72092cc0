"""Metrics and traces as the modules of a process record them."""

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
    """A histogram for hot paths: one thread records, any thread reads.

    A reader may see the count of a value without its sum; its next reading has both.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.total = 0.0
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self._counts = [0] * (len(self.bounds) + 1)

    def record(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        if value < self.minimum:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value

    @property
    def counts(self) -> list[int]:
        """Values up to each bound, and values above the last one."""
        return self._counts.copy()


Labels = Mapping[str, str | int]
Reading = Iterable[tuple[float, Labels]]
"""Values, each with its labels."""

SCOPE = "mlxmesh"


class Metrics:
    """Creates the metrics of a process; without a meter nothing is recorded."""

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter or NoOpMeter(SCOPE)
        self.counted: list[tuple[Instrument, BucketCounts]] = []
        """The counted histograms, which the exporter reads beside the meter."""

    def histogram(self, instrument: Instrument) -> Histogram:
        """A histogram to record into; about 10 us per value."""
        return self._meter.create_histogram(
            instrument.name,
            instrument.unit,
            instrument.description,
            explicit_bucket_boundaries_advisory=instrument.bounds,
        )

    def count(self, instrument: Instrument, counts: BucketCounts) -> None:
        """Exports a histogram that is counted on a hot path."""
        self.counted.append((instrument, counts))

    def observe(self, instrument: Instrument, read: Callable[[], Reading]) -> None:
        """Calls `read` at each export for the values of a counter or gauge."""

        def observations(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for value, labels in read()]

        make = (
            self._meter.create_observable_counter
            if instrument.kind is Kind.COUNTER
            else self._meter.create_observable_gauge
        )
        make(instrument.name, [observations], instrument.unit, instrument.description)

    def observe_value(self, instrument: Instrument, read: Callable[[], float]) -> None:
        """Calls `read` at each export for the one value, without labels, of a counter or gauge."""
        self.observe(instrument, lambda: [(read(), {})])


@dataclass(frozen=True)
class Telemetry:
    """What modules record spans and metrics with; by default nothing is recorded."""

    tracer: Tracer = field(default_factory=NoOpTracer)
    metrics: Metrics = field(default_factory=Metrics)


def observe_breakers(
    metrics: Metrics, breakers: Callable[[], Iterable[tuple[str, Breaker]]]
) -> None:
    """Exports the states of breakers, each paired with the service of its instance."""

    def read() -> Reading:
        found = [(service, breaker.state) for service, breaker in breakers()]
        counts = Counter(found)
        for service in sorted({service for service, _ in found}):
            for state in BreakerState:
                labels = {SERVICE: service, BREAKER_STATE: state.name.lower()}
                yield counts[service, state], labels

    metrics.observe(BREAKERS, read)
