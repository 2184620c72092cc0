"""Converts what callers submit to jobs: what rules in the contract cannot say is checked here."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_jobs.domain.jobs import (
    DEFAULT_ATTEMPT_TIMEOUT_S,
    MAX_RETENTION_S,
    Kind,
    NewJob,
    Owner,
)
from mlxmesh_jobs.domain.recovery import RetryPolicy
from mlxmesh_shared.errors import InvalidArgument, ModelNotAllowed
from mlxmesh_shared.model_patterns import allows
from mlxmesh_shared.timestamps import from_time

_YEAR_MS = 366 * 86_400_000
_SEED_BITS = 63
_SET_BY_JOBS = ("request_id", "detached", "keep_request", "client_data")
_KINDS = {
    "generation": Kind.GENERATION,
    "batch": Kind.BATCH,
    "embedding": Kind.EMBEDDING,
    "connector": Kind.CONNECTOR,
}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What the jobs of one call have in common."""

    owner: Owner
    connectors: Mapping[str, Sequence[str]] | None
    """The operations of the connectors that workers have; None while there is no worker."""
    now_ms: int


def from_submitted_all(request: pb.SubmitJobsRequest, submission: Submission) -> list[NewJob]:
    """The jobs to store. Raises: InvalidArgument, ModelNotAllowed."""
    jobs = [
        from_submitted(each, submission, f"jobs[{index}].")
        for index, each in enumerate(request.jobs)
    ]
    seen: set[str] = set()
    for index, job in enumerate(jobs):
        if job.job_id in seen:
            raise InvalidArgument(
                "another job of the call has this id", field=f"jobs[{index}].job_id"
            )
        seen.add(job.job_id)
    return jobs


def from_submitted(
    request: pb.SubmitJobRequest, submission: Submission, prefix: str = ""
) -> NewJob:
    """The job to store.

    prefix: of the paths of its fields, in errors.
    Raises: InvalidArgument, ModelNotAllowed.
    """
    kind = _KINDS[request.WhichOneof("work") or ""]
    _check_work(request, submission, prefix)
    not_before_ms, deadline_ms = _times(request, submission.now_ms, prefix)
    job_id = request.job_id or f"job-{secrets.token_hex(12)}"
    connector = request.connector.connector
    default_timeout_s = 0 if kind is Kind.BATCH else DEFAULT_ATTEMPT_TIMEOUT_S
    return NewJob(
        job_id=job_id,
        kind=kind,
        queue=request.queue or connector or kind.name.lower(),
        owner=submission.owner,
        request=_stored(request, job_id),
        digest=sha256(request.SerializeToString(deterministic=True)).digest(),
        summary=_summary(request, submission),
        connector=connector,
        priority=request.priority,
        not_before_ms=not_before_ms,
        deadline_ms=deadline_ms,
        attempt_timeout_s=request.attempt_timeout_s or default_timeout_s,
        retry=_retry(request.retry),
        labels=dict(request.labels),
        retention_s=request.retention_s or MAX_RETENTION_S,
        input_files=_input_files(request),
    )


def _stored(request: pb.SubmitJobRequest, job_id: str) -> bytes:
    """The request with what its job sets, the same in every attempt."""
    stored = pb.SubmitJobRequest()
    stored.CopyFrom(request)
    if request.HasField("generation"):
        stored.generation.request_id = job_id
        if not request.generation.sampling.HasField("seed"):
            stored.generation.sampling.seed = secrets.randbits(_SEED_BITS)
    return stored.SerializeToString()


def _check_work(request: pb.SubmitJobRequest, submission: Submission, prefix: str) -> None:
    match request.WhichOneof("work"):
        case "generation":
            for name in _SET_BY_JOBS:
                if getattr(request.generation, name):
                    raise InvalidArgument(
                        f"{name} is set by the job", field=f"{prefix}generation.{name}"
                    )
            _check_model(request.generation.model, submission, f"{prefix}generation.model")
        case "embedding":
            _check_model(request.embedding.model, submission, f"{prefix}embedding.model")
        case "connector":
            _check_connector(request.connector, submission.connectors, f"{prefix}connector.")
        case _:
            pass


def _check_model(model: str, submission: Submission, field: str) -> None:
    if not allows(submission.owner.models, model):
        raise ModelNotAllowed("this key may not use this model", field=field)


def _check_connector(
    work: pb.ConnectorWork, connectors: Mapping[str, Sequence[str]] | None, prefix: str
) -> None:
    if connectors is None:
        return  # no worker is there: the job waits for one
    operations = connectors.get(work.connector)
    if operations is None:
        existing = ", ".join(sorted(connectors)) or "none"
        raise InvalidArgument(
            f"no worker has the connector {work.connector}; they have {existing}",
            field=f"{prefix}connector",
        )
    if work.operation and operations and work.operation not in operations:
        raise InvalidArgument(
            f"{work.connector} has no operation {work.operation}; it has {', '.join(operations)}",
            field=f"{prefix}operation",
        )


def _times(request: pb.SubmitJobRequest, now_ms: int, prefix: str) -> tuple[int, int]:
    """When it may start and must have ended; 0 where there is no limit."""
    not_before_ms = deadline_ms = 0
    if request.HasField("not_before"):
        field = f"{prefix}not_before"
        not_before_ms = from_time(request.not_before, field)
        if not_before_ms > now_ms + _YEAR_MS:
            raise InvalidArgument("not_before must be at most a year from now", field=field)
        if not_before_ms <= now_ms:
            not_before_ms = 0
    if request.HasField("deadline"):
        field = f"{prefix}deadline"
        deadline_ms = from_time(request.deadline, field)
        if deadline_ms > now_ms + _YEAR_MS:
            raise InvalidArgument("deadline must be at most a year from now", field=field)
        if deadline_ms <= max(now_ms, not_before_ms):
            raise InvalidArgument("deadline must be after now and after not_before", field=field)
    return not_before_ms, deadline_ms


def _retry(retry: pb.RetryPolicy) -> RetryPolicy:
    default = RetryPolicy()
    return RetryPolicy(
        max_attempts=retry.max_attempts or default.max_attempts,
        initial_delay_ms=retry.initial_delay_ms or default.initial_delay_ms,
        max_delay_ms=retry.max_delay_ms or default.max_delay_ms,
    )


def _summary(request: pb.SubmitJobRequest, submission: Submission) -> str:
    """What it does, without what only its owner should read."""
    match request.WhichOneof("work"):
        case "generation":
            return f"generate with {request.generation.model}"
        case "embedding":
            return f"embed with {request.embedding.model}"
        case "connector":
            work = request.connector
            known = (submission.connectors or {}).get(work.connector) or ("work",)
            return f"{work.operation or known[0]} by {work.connector}"
        case _:
            return f"run a batch of {request.batch.endpoint}"


def _input_files(request: pb.SubmitJobRequest) -> tuple[str, ...]:
    if request.HasField("batch"):
        return (request.batch.input_file_id,)
    return tuple(sorted(set(request.connector.input_file_ids.values())))
