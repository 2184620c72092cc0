"""Makes a process's metrics from the list of them."""

from collections.abc import Callable, Iterable, Mapping

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, NoOpMeter, Observation

from mlxmesh_shared.telemetry.bucket_counts import BucketCounts
from mlxmesh_shared.telemetry.instruments import Instrument, Kind

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
