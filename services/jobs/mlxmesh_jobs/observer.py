"""Publishes and counts what happens to jobs, where this process did it."""

import logging
from collections.abc import Mapping, Sequence

from mlxmesh_jobs import job_events
from mlxmesh_jobs.clock import Monotonic
from mlxmesh_jobs.domain.jobs import Ended, Job, Kind, QueueCounts
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.telemetry import MAX_QUEUES, OTHER, JobTelemetry
from mlxmesh_shared.events import Publish

_INTERVAL_S = 1.0

_log = logging.getLogger("mlxmesh.jobs")


class JobObserver:
    """Satisfies whoever changes jobs: nothing here waits or fails."""

    def __init__(self, publish: Publish, telemetry: JobTelemetry, *, clock: Monotonic) -> None:
        self._publish = publish
        self._telemetry = telemetry
        self._clock = clock
        self._published_s: dict[str, float] = {}
        self._blocked: Mapping[str, str] = {}

    def ended(self, ended: Sequence[Ended]) -> None:
        """Attempts have ended, and perhaps their jobs."""
        for each in ended:
            if each.recovery:
                self._telemetry.failed(each.recovery)
            if each.job.state.ended:
                self.job_ended(each.job)
            elif each.recovery and self._is_due(f"attempt {each.job.queue}"):
                self._publish(job_events.of_failed_attempt(each), each.job.job_id)

    def job_ended(self, job: Job) -> None:
        """A job has ended."""
        self._telemetry.ended(job)
        is_request = job.kind is Kind.REQUEST and job.state is State.FAILED
        if is_request and not self._is_due("request"):
            return
        event = job_events.of_end(job)
        if event is not None:
            self._publish(event, job.job_id)

    def worker_connected(self, worker_id: str, host: str, slots: int) -> None:
        """A worker has a stream to this process."""
        self._publish(job_events.of_worker(worker_id, host, slots), worker_id)

    def worker_lost(self, worker_id: str, reason: str, jobs: int) -> None:
        """The session of a worker was ended."""
        self._telemetry.lost += 1
        _log.warning("%s was lost, with %d attempts: %s", worker_id, jobs, reason)
        self._publish(job_events.of_lost_worker(worker_id, reason, jobs), worker_id)

    def queues_seen(self, queues: Sequence[QueueCounts], blocked: Mapping[str, str]) -> None:
        """What the queues contain, and why those that are blocked are."""
        self._telemetry.seen(queues)
        waiting = {each.name: each.waiting for each in queues}
        for name in sorted(blocked.keys() | self._blocked.keys()):
            reason = blocked.get(name, "")
            if bool(reason) != bool(self._blocked.get(name)):
                event = job_events.of_blocked_queue(name, reason, waiting.get(name, 0))
                self._publish(event, name)
        self._blocked = {name: reason for name, reason in blocked.items() if reason}

    def _is_due(self, name: str) -> bool:
        """Whether the last event of this name is a second ago."""
        if name not in self._published_s and len(self._published_s) >= MAX_QUEUES:
            name = OTHER
        now_s = self._clock()
        if now_s - self._published_s.get(name, -_INTERVAL_S) < _INTERVAL_S:
            return False
        self._published_s[name] = now_s
        return True
