"""Builds the events of jobs, workers and queues. Pure."""

from google.protobuf.message import Message

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_jobs.domain.jobs import Ended, FailureFacts, Job, Kind
from mlxmesh_jobs.domain.states import State


def of_end(job: Job) -> Message | None:
    """The event of a job that has ended; None for what is not published."""
    names = {"job_id": job.job_id, "kind": job.kind.name.lower(), "queue": job.queue}
    match job.state:
        case State.COMPLETED if job.kind is not Kind.REQUEST:
            duration_ms = max(0, job.ended_ms - job.created_ms)
            return events.JobCompleted(**names, attempt=job.attempt, duration_ms=duration_ms)
        case State.FAILED:
            return events.JobFailed(**names, attempt=job.attempt, failure=to_failure(job.failure))
        case State.CANCELLED if job.kind is not Kind.REQUEST:
            return events.JobCancelled(**names)
        case _:
            return None


def of_failed_attempt(ended: Ended) -> Message:
    """The event of an attempt that failed and that another one follows."""
    job = ended.job
    return events.JobAttemptFailed(
        job_id=job.job_id,
        kind=job.kind.name.lower(),
        queue=job.queue,
        attempt=job.attempt,
        failure=to_failure(ended.failure),
        recovery=ended.recovery,
        delay_ms=ended.delay_ms or 0,
    )


def of_worker(worker_id: str, host: str, slots: int) -> Message:
    """A worker connected."""
    return events.WorkerConnected(worker_id=worker_id, host=host, slots=slots)


def of_lost_worker(worker_id: str, reason: str, jobs: int) -> Message:
    """A worker was lost."""
    return events.WorkerLost(worker_id=worker_id, reason=reason, jobs=jobs)


def of_blocked_queue(queue: str, reason: str, waiting: int) -> Message:
    """A queue's jobs cannot start; they can again without a reason."""
    if not reason:
        return events.QueueUnblocked(queue=queue)
    return events.QueueBlocked(queue=queue, reason=reason, waiting=waiting)


def to_failure(facts: FailureFacts | None) -> Failure | None:
    """Why a job or an attempt failed."""
    if facts is None:
        return None
    return Failure(
        code=facts.code,
        reason=facts.reason,
        message=facts.message,
        field=facts.field,
        retry_delay_ms=facts.retry_delay_ms,
    )
