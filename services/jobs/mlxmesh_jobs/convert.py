"""Converts jobs and queues to JobService's messages and back."""

from collections.abc import Sequence
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import GenerateResponse
from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1 import worker_pb2
from mlxmesh_jobs.batches.convert import to_batch_result
from mlxmesh_jobs.callers import Caller
from mlxmesh_jobs.convert_generation import joined
from mlxmesh_jobs.domain.jobs import (
    Attempt,
    BatchCounts,
    Job,
    JobFilter,
    Kind,
    Owner,
    QueueCounts,
    QueueSettings,
)
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.job_events import to_failure
from mlxmesh_jobs.workers.messages import BackEnd, WorkerFacts
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.rpc.caller import forwarded_submitter
from mlxmesh_shared.timestamps import from_time, to_time


def from_caller(context: Any) -> Caller:
    """The caller of a method. Raises: InvalidArgument for an illegal name."""
    submitter = forwarded_submitter(context)
    caller = submitter.caller
    return Caller(
        owner=Owner(
            owner=submitter.owner,
            principal=caller.principal,
            share=submitter.share,
            user=caller.user,
            key_id=caller.key_id,
            team=submitter.team,
            models=submitter.models,
            is_admin=caller.is_admin,
        )
    )


def to_job(job: Job, batch_result: bytes = b"") -> pb.Job:
    """A job, without its attempts and result; a batch with its counts.

    batch_result: what is stored of a batch beside them.
    """
    return pb.Job(
        job_id=job.job_id,
        kind=pb.JobKind.ValueType(job.kind),
        queue=job.queue,
        principal=job.owner.principal,
        state=pb.JobState.ValueType(job.state),
        priority=job.priority,
        create_time=to_time(job.created_ms),
        not_before=to_time(job.not_before_ms),
        deadline=to_time(job.deadline_ms),
        start_time=to_time(job.started_ms),
        end_time=to_time(job.ended_ms),
        attempt=job.attempt,
        next_attempt_time=to_time(job.ready_ms if job.state is State.DELAYED else 0),
        progress=_progress(job),
        failure=to_failure(job.failure),
        sequence=job.sequence,
        labels=dict(job.labels),
        batch_id=job.batch_id,
        custom_id=job.custom_id,
        cost=job.cost,
        summary=job.summary,
        expire_time=to_time(job.expires_ms),
        worker_id=job.worker_id if job.state.held else "",
        batch=_batch(job, batch_result),
    )


def to_whole_job(
    job: Job, attempts: Sequence[Attempt], result: bytes, outputs: Sequence[bytes]
) -> pb.Job:
    """A job with its attempts and its result so far."""
    message = to_job(job, result)
    message.attempts.extend(map(_attempt, attempts))
    if outputs:
        message.generation.CopyFrom(joined(map(GenerateResponse.FromString, outputs)))
    if result and job.kind is not Kind.BATCH:
        _add_result(message, worker_pb2.AttemptResult.FromString(result))
    return message


def _add_result(message: pb.Job, result: worker_pb2.AttemptResult) -> None:
    match result.WhichOneof("result"):
        case "embedding":
            message.embedding.CopyFrom(result.embedding)
        case "connector":
            message.connector.CopyFrom(result.connector)
        case "request":
            message.request.CopyFrom(result.request)
        case _:
            pass


def _progress(job: Job) -> pb.JobProgress | None:
    told = job.progress
    if told is None:
        return None
    return pb.JobProgress(
        fraction=told.fraction, done=told.done, total=told.total, unit=told.unit, text=told.text
    )


def _batch(job: Job, result: bytes) -> pb.BatchResult | None:
    if job.kind is not Kind.BATCH:
        return None
    return to_batch_result(job.batch or BatchCounts(), result, ended=job.state.ended)


def _attempt(attempt: Attempt) -> pb.JobAttempt:
    return pb.JobAttempt(
        attempt=attempt.attempt,
        worker_id=attempt.worker_id,
        start_time=to_time(attempt.started_ms),
        end_time=to_time(attempt.ended_ms),
        failure=to_failure(attempt.failure),
        recovery=attempt.recovery,
    )


def to_output(sequence: int, output: bytes) -> pb.WatchJobResponse:
    """The next message of a job's stream."""
    message = GenerateResponse.FromString(output)
    return pb.WatchJobResponse(sequence=sequence, output=message)


def to_submitted(request: bytes) -> pb.SubmitJobRequest:
    """What was submitted, with the seed that was chosen."""
    submitted = pb.SubmitJobRequest.FromString(request)
    if submitted.HasField("generation"):
        submitted.generation.ClearField("request_id")
    return submitted


def from_list(request: pb.ListJobsRequest, caller: Caller) -> JobFilter | None:
    """Which jobs to list; None for none. Raises: InvalidArgument."""
    principal = request.principal
    if not caller.sees_all:
        if principal not in ("", caller.owner.principal):
            return None
        principal = caller.owner.principal
    kinds = frozenset(_kind(number, i) for i, number in enumerate(request.kinds))
    ordinary = frozenset(Kind) if request.batch_id else frozenset(Kind) - {Kind.REQUEST}
    return JobFilter(
        principal=principal,
        states=frozenset(_state(number, i) for i, number in enumerate(request.states)),
        kinds=kinds or ordinary,
        queue=request.queue,
        batch_id=request.batch_id,
        labels=dict(request.labels),
        created_after_ms=_time(request, "created_after"),
        created_before_ms=_time(request, "created_before"),
    )


def _time(request: Any, field: str) -> int:
    return from_time(getattr(request, field), field) if request.HasField(field) else 0


def _state(number: int, index: int) -> State:
    try:
        return State(number)
    except ValueError:
        raise InvalidArgument("there is no such state", field=f"states[{index}]") from None


def _kind(number: int, index: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise InvalidArgument("there is no such kind", field=f"kinds[{index}]") from None


def from_settings(settings: pb.QueueSettings) -> QueueSettings:
    """The settings of a queue. Raises: InvalidArgument."""
    if settings.burst and not settings.starts_per_second:
        raise InvalidArgument("burst needs starts_per_second", field="settings.burst")
    return QueueSettings(
        paused=settings.paused,
        max_running=settings.max_running,
        max_running_per_principal=settings.max_running_per_principal,
        max_waiting_per_principal=settings.max_waiting_per_principal,
        starts_per_second=settings.starts_per_second,
        burst=settings.burst,
    )


def to_queue(queue: QueueCounts, *, workers: int, blocked: str, now_ms: int) -> pb.Queue:
    """A queue."""
    settings = queue.settings
    waited_ms = now_ms - queue.oldest_waiting_ms if queue.oldest_waiting_ms else 0
    return pb.Queue(
        name=queue.name,
        settings=pb.QueueSettings(
            paused=settings.paused,
            max_running=settings.max_running,
            max_running_per_principal=settings.max_running_per_principal,
            max_waiting_per_principal=settings.max_waiting_per_principal,
            starts_per_second=settings.starts_per_second,
            burst=settings.burst,
        ),
        delayed=queue.delayed,
        waiting=queue.waiting,
        running=queue.running,
        failed=queue.failed,
        oldest_waiting_s=max(0, waited_ms) / 1000,
        workers=workers,
        blocked=blocked,
    )


def to_worker(facts: WorkerFacts) -> pb.Worker:
    """A worker."""
    return pb.Worker(
        worker_id=facts.worker_id,
        host=facts.host,
        slots=facts.slots,
        running=facts.running,
        back_ends=map(_back_end, facts.back_ends),
    )


def _back_end(back_end: BackEnd) -> pb.BackEnd:
    return pb.BackEnd(
        connector=back_end.connector,
        name=back_end.name,
        address=back_end.address,
        healthy=back_end.healthy,
        reason=back_end.reason,
        operations=back_end.operations,
    )
