"""The attempts of one session, and which of them take too long. Pure: the time is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from mlxmesh_jobs.domain.jobs import (
    AttemptId,
    Completed,
    Failed,
    FailureFacts,
    Stopped,
    Update,
)
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_shared.errors import Cancelled, DeadlineExceeded, MeshError, WorkerStuck

STOP_GRACE_S = 10.0
"""How long a worker may take to stop an attempt."""


class Cause(Enum):
    """Why an attempt is asked to stop."""

    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    STUCK = "stuck"


_FAULTS = {
    Cause.CANCELLED: Fault.WORKER_STUCK,
    Cause.TIMEOUT: Fault.TIMEOUT,
    Cause.STUCK: Fault.WORKER_STUCK,
}
_ERRORS: dict[Cause, MeshError] = {
    Cause.CANCELLED: Cancelled("the job was cancelled and its worker did not stop it in time"),
    Cause.TIMEOUT: DeadlineExceeded(
        "the attempt took longer than it may; raise attempt_timeout_s or the deadline"
    ),
    Cause.STUCK: WorkerStuck("the worker had no news of the attempt for too long"),
}


def failed(cause: Cause) -> Failed:
    """How an attempt ends that was asked to stop."""
    return Failed(failure=to_facts(_ERRORS[cause]), fault=_FAULTS[cause])


def to_facts(error: MeshError) -> FailureFacts:
    """An error, as it is stored."""
    return FailureFacts(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        field=error.field,
        retry_delay_ms=round((error.retry_delay_s or 0) * 1000),
    )


@dataclass(slots=True)
class _Running:
    """An attempt that a session holds."""

    news_s: float
    """When it began, or had its last news."""
    overdue_s: float | None
    """When it has taken too long; None for never."""
    cause: Cause | None = None
    stop_by_s: float = 0.0
    """When its worker must have stopped it, if there is a cause."""


class Attempts:
    """What one session holds."""

    def __init__(self, *, stall_timeout_s: float | None, grace_s: float = STOP_GRACE_S) -> None:
        """stall_timeout_s: None if attempts may be without news."""
        self._stall_timeout_s = stall_timeout_s
        self._grace_s = grace_s
        self._running: dict[AttemptId, _Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, attempt: AttemptId) -> bool:
        return attempt in self._running

    def begin(self, attempt: AttemptId, timeout_ms: int, now_s: float) -> None:
        """The session was given an attempt; a timeout of 0 is none."""
        # Its worker ends it itself at the timeout, if it can.
        overdue_s = now_s + timeout_ms / 1000 + self._grace_s if timeout_ms else None
        self._running[attempt] = _Running(now_s, overdue_s)

    def end(self, attempt: AttemptId) -> None:
        """The session holds it no more."""
        self._running.pop(attempt, None)

    def news(self, update: Update, now_s: float) -> Update:
        """Notes news of an attempt; returns what to store of it."""
        running = self._running.get(update.id)
        if running is None:
            return update
        running.news_s = now_s
        if isinstance(update.news, Stopped) and running.cause in (Cause.TIMEOUT, Cause.STUCK):
            return Update(id=update.id, news=failed(running.cause))
        return update

    def cancel(self, attempt: AttemptId, now_s: float) -> bool:
        """The job was cancelled; whether that is news to the worker."""
        running = self._running.get(attempt)
        if running is None or running.cause is Cause.CANCELLED:
            return False
        is_new = running.cause is None
        running.cause = Cause.CANCELLED
        running.stop_by_s = now_s + self._grace_s
        return is_new

    def overdue(self, now_s: float) -> Sequence[AttemptId]:
        """Attempts that their worker must be asked to stop now, each once."""
        found = [
            (attempt, cause)
            for attempt, running in self._running.items()
            if running.cause is None and (cause := self._cause(running, now_s)) is not None
        ]
        for attempt, cause in found:
            running = self._running[attempt]
            running.cause, running.stop_by_s = cause, now_s + self._grace_s
        return [attempt for attempt, _ in found]

    def unstopped(self, now_s: float) -> Sequence[tuple[AttemptId, Cause]]:
        """Attempts that their worker has not stopped in time."""
        return [
            (attempt, running.cause)
            for attempt, running in self._running.items()
            if running.cause is not None and now_s >= running.stop_by_s
        ]

    def _cause(self, running: _Running, now_s: float) -> Cause | None:
        if running.overdue_s is not None and now_s >= running.overdue_s:
            return Cause.TIMEOUT
        stall_s = self._stall_timeout_s
        if stall_s is not None and now_s - running.news_s >= stall_s:
            return Cause.STUCK
        return None


def ends(update: Update) -> bool:
    """Whether the news is the end of the attempt."""
    return isinstance(update.news, Completed | Failed | Stopped)
