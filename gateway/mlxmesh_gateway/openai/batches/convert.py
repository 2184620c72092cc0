"""Converts between OpenAI's batches and JobService's messages.

Source: the class Batch of the official openai package, `openai.types.batch`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_gateway.http.idempotency import IDEMPOTENCY_KEY
from mlxmesh_gateway.openai.batches.schema import WINDOW, BatchRequest
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument, JobNotFound

JsonObject = dict[str, object]
WINDOW_S = 86_400
ENDPOINTS = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"}
)
_OTHERS = frozenset({"/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"})
"""OpenAI's, which the mesh does not have."""
_WAITING = (pb.JOB_STATE_DELAYED, pb.JOB_STATE_WAITING)
_EXPIRED = "DEADLINE_EXCEEDED"


def submission(request: BatchRequest, batch_id: str, now_s: int) -> pb.SubmitJobRequest:
    """The job of a batch. Raises: InvalidArgument, FeatureNotSupported."""
    if request.endpoint in _OTHERS:
        raise FeatureNotSupported(
            f"endpoint {request.endpoint} is not supported: the mesh has no such route",
            field="endpoint",
        )
    if request.endpoint not in ENDPOINTS:
        raise InvalidArgument(
            f"endpoint must be one of {', '.join(sorted(ENDPOINTS))}", field="endpoint"
        )
    if request.completion_window != WINDOW:
        raise InvalidArgument(f"completion_window must be {WINDOW}", field="completion_window")
    return pb.SubmitJobRequest(
        job_id=batch_id,
        batch=pb.BatchWork(
            input_file_id=request.input_file_id,
            endpoint=request.endpoint,
            metadata=request.metadata or {},
        ),
        deadline=Timestamp(seconds=now_s + WINDOW_S),
    )


def new_batch_id(headers: Mapping[str, str], principal: str) -> str:
    """The same for a caller's same Idempotency-Key. Raises: InvalidArgument for an empty key."""
    key = headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return f"batch_{secrets.token_hex(16)}"
    if not key:
        raise InvalidArgument(f"the header {IDEMPOTENCY_KEY} is empty", field=IDEMPOTENCY_KEY)
    return f"batch_{hashlib.sha256(f'{principal} {key}'.encode()).hexdigest()[:32]}"


def batch_object(job: pb.Job, submitted: pb.SubmitJobRequest) -> JsonObject:
    """A batch as OpenAI shows it. Raises: JobNotFound for a job of another kind."""
    if job.kind != pb.JOB_KIND_BATCH:
        raise unknown_batch()
    work, result, status = submitted.batch, job.batch, status_of(job)
    return {
        "id": job.job_id,
        "object": "batch",
        "endpoint": work.endpoint,
        "errors": _errors(job),
        "input_file_id": work.input_file_id,
        "completion_window": WINDOW,
        "status": status,
        "output_file_id": result.output_file_id or None,
        "error_file_id": result.error_file_id or None,
        "created_at": job.create_time.seconds,
        "in_progress_at": (job.start_time.seconds or None) if result.total else None,
        "expires_at": job.deadline.seconds or None,
        "finalizing_at": _at(job, status, "completed"),
        "completed_at": _at(job, status, "completed"),
        "failed_at": _at(job, status, "failed"),
        "expired_at": _at(job, status, "expired"),
        "cancelling_at": _at(job, status, "cancelled"),
        "cancelled_at": _at(job, status, "cancelled"),
        "request_counts": {
            "total": result.total,
            "completed": result.completed,
            "failed": result.failed,
        },
        "metadata": dict(work.metadata) or None,
        "usage": _usage(result),
    }


def status_of(job: pb.Job) -> str:
    """A batch's state in OpenAI's words."""
    result = job.batch
    match job.state:
        case pb.JOB_STATE_CANCELLING:
            return "cancelling"
        case pb.JOB_STATE_CANCELLED:
            return "cancelled"
        case pb.JOB_STATE_COMPLETED:
            return "completed"
        case pb.JOB_STATE_FAILED:
            return "expired" if job.failure.reason == _EXPIRED else "failed"
        case _:
            if not result.total:
                return "validating"
            ended = result.completed + result.failed >= result.total
            return "finalizing" if ended else "in_progress"


def unknown_batch() -> JobNotFound:
    """What a caller gets for an id that is no batch's."""
    return JobNotFound("there is no such batch, or it is another caller's", field="batch_id")


def _errors(job: pb.Job) -> JsonObject | None:
    """Why a batch failed."""
    if job.state != pb.JOB_STATE_FAILED or job.failure.reason == _EXPIRED:
        return None
    data = [_error(one.code, one.message, one.line or None) for one in job.batch.errors]
    if not data:
        data = [_error(job.failure.reason.lower(), job.failure.message, None)]
    return {"object": "list", "data": data}


def _error(code: str, message: str, line: int | None) -> JsonObject:
    return {"code": code, "message": message, "param": None, "line": line}


def _usage(result: pb.BatchResult) -> JsonObject:
    return {
        "input_tokens": result.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": result.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": result.prompt_tokens + result.completion_tokens,
    }


def _at(job: pb.Job, status: str, wanted: str) -> int | None:
    """When a batch ended in one way; None if it did not."""
    return job.end_time.seconds or None if status == wanted else None
