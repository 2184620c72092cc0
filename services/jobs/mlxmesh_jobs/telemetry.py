"""Metrics of jobs."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mlxmesh_jobs.domain.jobs import Job, QueueCounts
from mlxmesh_jobs.domain.recovery import POISONED, STRATEGIES
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics, Reading

KIND = "mlxmesh.job.kind"
QUEUE = "mlxmesh.job.queue"
STATE = "mlxmesh.job.state"
RECOVERY = "mlxmesh.job.recovery"
OTHER = "other"
MAX_QUEUES = 100
"""Callers choose the names of queues; further ones are counted together."""
_DURATION_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)

JOBS = Instrument(
    "mlxmesh.jobs", Kind.COUNTER, "{job}", "Jobs that have ended, by kind, queue and state"
)
WAIT = Instrument(
    "mlxmesh.job.wait.duration",
    Kind.HISTOGRAM,
    "s",
    "From when a job could start to its first attempt",
    _DURATION_S,
)
RUN = Instrument(
    "mlxmesh.job.run.duration",
    Kind.HISTOGRAM,
    "s",
    "From a job's first attempt to its end",
    _DURATION_S,
)
FAILED_ATTEMPTS = Instrument(
    "mlxmesh.job.attempts.failed",
    Kind.COUNTER,
    "{attempt}",
    "Attempts that failed, by the recovery strategy that followed",
)
LEASE_LOSSES = Instrument(
    "mlxmesh.job.workers.lost", Kind.COUNTER, "{worker}", "Workers that were lost"
)
WORKERS = Instrument(
    "mlxmesh.job.workers", Kind.GAUGE, "{worker}", "Workers with a stream to this jobs service"
)
DEPTH = Instrument(
    "mlxmesh.job.queue.depth",
    Kind.GAUGE,
    "{job}",
    "Jobs of a queue that are delayed, waiting, running or failed; the same from each jobs service",
)
OLDEST = Instrument(
    "mlxmesh.job.queue.oldest",
    Kind.GAUGE,
    "s",
    "How long the oldest waiting job of a queue has waited",
)


class JobTelemetry:
    """Counts what this process has done, and keeps the last look at the queues."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        workers: Callable[[], int],
        clock: Callable[[], int],
    ) -> None:
        """workers: how many are connected. clock: the milliseconds since 1970."""
        metrics = metrics or Metrics()
        self._clock = clock
        self._jobs: Counter[tuple[str, str, str]] = Counter()
        names = [each.name for each in STRATEGIES.values()]
        self._failed: Counter[str] = Counter(dict.fromkeys([*names, POISONED.lower()], 0))
        self._queues: Sequence[QueueCounts] = ()
        self._names: set[str] = set()
        self.lost = 0
        """Workers that were lost."""
        self._waits = metrics.histogram(WAIT)
        self._runs = metrics.histogram(RUN)
        metrics.observe(JOBS, self.read_jobs)
        metrics.observe(FAILED_ATTEMPTS, self._read_failed)
        metrics.observe_value(LEASE_LOSSES, lambda: self.lost)
        metrics.observe_value(WORKERS, workers)
        metrics.observe(DEPTH, self._read_depth)
        metrics.observe(OLDEST, self._read_oldest)

    def ended(self, job: Job) -> None:
        """A job has ended."""
        kind, queue = job.kind.name.lower(), self._queue(job.queue)
        self._jobs[kind, queue, job.state.name.lower()] += 1
        labels = {KIND: kind, QUEUE: queue}
        if job.started_ms:
            could_ms = max(job.created_ms, job.not_before_ms)
            self._waits.record(max(0, job.started_ms - could_ms) / 1000, labels)
            self._runs.record(max(0, job.ended_ms - job.started_ms) / 1000, labels)

    def failed(self, recovery: str) -> None:
        """An attempt failed."""
        self._failed[recovery] += 1

    def seen(self, queues: Sequence[QueueCounts]) -> None:
        """What the queues contain at present."""
        self._queues = queues[:MAX_QUEUES]

    def _queue(self, name: str) -> str:
        if name not in self._names and len(self._names) >= MAX_QUEUES:
            return OTHER
        self._names.add(name)
        return name

    def read_jobs(self) -> Reading:
        """The jobs that have ended, by kind, queue and state."""
        for (kind, queue, state), count in [*self._jobs.items()]:
            yield count, {KIND: kind, QUEUE: queue, STATE: state}

    def _read_failed(self) -> Reading:
        return [(count, {RECOVERY: name}) for name, count in [*self._failed.items()]]

    def _read_depth(self) -> Reading:
        for queue in self._queues:
            for state, count in _states(queue):
                yield count, {QUEUE: queue.name, STATE: state}

    def _read_oldest(self) -> Reading:
        now_ms = self._clock()
        for queue in self._queues:
            waited_ms = now_ms - queue.oldest_waiting_ms if queue.oldest_waiting_ms else 0
            yield max(0, waited_ms) / 1000, {QUEUE: queue.name}


def _states(queue: QueueCounts) -> Iterable[tuple[str, int]]:
    yield "delayed", queue.delayed
    yield "waiting", queue.waiting
    yield "running", queue.running
    yield "failed", queue.failed
