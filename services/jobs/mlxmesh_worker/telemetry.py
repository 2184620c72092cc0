"""Metrics of a worker."""

from collections import Counter
from collections.abc import Callable, Mapping

from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics, Reading
from mlxmesh_worker.work import Kind as JobKind

KIND = "mlxmesh.job.kind"
ATTEMPT = "mlxmesh.job.attempt"
OUTCOME = "mlxmesh.attempt.outcome"

ATTEMPTS = Instrument(
    "mlxmesh.worker.attempts",
    Kind.COUNTER,
    "{attempt}",
    "Attempts that ended, by kind and outcome",
)
RUNNING = Instrument(
    "mlxmesh.worker.running", Kind.GAUGE, "{attempt}", "Attempts that run, by kind"
)
RECONNECTS = Instrument(
    "mlxmesh.worker.reconnects",
    Kind.COUNTER,
    "{connection}",
    "Streams to jobs services that ended and had to be opened again",
)
LEASE_LOSSES = Instrument(
    "mlxmesh.worker.lease_losses",
    Kind.COUNTER,
    "{session}",
    "Sessions that ended although the worker lived: it dropped its attempts and began a new one",
)


class WorkerTelemetry:
    """Counts what happens to attempts and to the stream."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        running: Callable[[], Mapping[str, int]] = dict[str, int],
    ) -> None:
        metrics = metrics or Metrics()
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.running = running
        self.reconnects = 0
        self.lease_losses = 0
        metrics.observe(ATTEMPTS, self._read_attempts)
        metrics.observe(RUNNING, self._read_running)
        metrics.observe_value(RECONNECTS, lambda: self.reconnects)
        metrics.observe_value(LEASE_LOSSES, lambda: self.lease_losses)

    def ended(self, kind: str, outcome: str) -> None:
        """Counts an attempt."""
        self.attempts[kind, outcome] += 1

    def _read_attempts(self) -> Reading:
        return [
            (count, {KIND: kind, OUTCOME: outcome})
            for (kind, outcome), count in self.attempts.items()
        ]

    def _read_running(self) -> Reading:
        counts = {kind.name.lower(): 0 for kind in JobKind} | dict(self.running())
        return [(count, {KIND: kind}) for kind, count in counts.items()]
