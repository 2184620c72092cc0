"""Converts batches and their results to the contract's messages and back."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1 import worker_pb2
from mlxmesh_jobs.batches.input import InputError
from mlxmesh_jobs.batches.results import RequestOutcome
from mlxmesh_jobs.domain.jobs import BatchCounts, Claim, FailureFacts
from mlxmesh_jobs.domain.ports import BatchItem
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.error_status import to_failure

_CANCELLED = FailureFacts(code=1, reason="CANCELLED", message="the request was cancelled")


@dataclass(frozen=True, kw_only=True)
class BatchWork:
    """What a batch is to do, as in the contract."""

    input_file_id: str
    endpoint: str
    max_running: int
    """0 for no limit."""


@dataclass(frozen=True, kw_only=True)
class BatchFiles:
    """The files of a batch, as far as they are known; empty for none."""

    output_file_id: str = ""
    error_file_id: str = ""


def from_claim(claim: Claim) -> BatchWork:
    """The work of a claimed batch."""
    work = pb.SubmitJobRequest.FromString(claim.request).batch
    return BatchWork(
        input_file_id=work.input_file_id, endpoint=work.endpoint, max_running=work.max_running
    )


def to_request(endpoint: str, body: bytes) -> bytes:
    """What is stored of a request: a RequestWork, encoded."""
    return worker_pb2.RequestWork(endpoint=endpoint, body_json=body.decode()).SerializeToString()


def to_result(files: BatchFiles, errors: Sequence[InputError] = ()) -> bytes:
    """What is stored of a batch beside its counts: an AttemptResult."""
    result = pb.BatchResult(
        output_file_id=files.output_file_id,
        error_file_id=files.error_file_id,
        errors=[pb.BatchError(line=e.line, code=e.code, message=e.message) for e in errors],
    )
    return worker_pb2.AttemptResult(batch=result).SerializeToString()


def from_result(result: bytes) -> BatchFiles:
    """The files of a batch; of one without a result, none."""
    found = worker_pb2.AttemptResult.FromString(result).batch
    return BatchFiles(output_file_id=found.output_file_id, error_file_id=found.error_file_id)


def to_batch_result(counts: BatchCounts, result: bytes, *, ended: bool) -> pb.BatchResult:
    """A batch as callers see it. Its files are shown once it has ended."""
    shown = worker_pb2.AttemptResult.FromString(result).batch
    if not ended:
        shown.output_file_id = shown.error_file_id = ""
    shown.total = counts.total
    shown.completed = counts.completed
    shown.failed = counts.failed + counts.cancelled
    shown.prompt_tokens = counts.prompt_tokens
    shown.completion_tokens = counts.completion_tokens
    return shown


def to_outcome(item: BatchItem) -> RequestOutcome:
    """What became of a request."""
    if not item.result:
        return RequestOutcome(
            number=item.number, custom_id=item.custom_id, failure=item.failure or _CANCELLED
        )
    found = worker_pb2.AttemptResult.FromString(item.result).request
    return RequestOutcome(
        number=item.number,
        custom_id=item.custom_id,
        status_code=found.status_code,
        request_id=found.request_id,
        body_json=found.body_json,
    )


def to_read_response(item: BatchItem) -> pb.ReadBatchResponse:
    """One result of ReadBatch."""
    response = pb.ReadBatchResponse(number=item.number, custom_id=item.custom_id)
    if item.result:
        response.result.CopyFrom(worker_pb2.AttemptResult.FromString(item.result).request)
        return response
    failure = item.failure or _CANCELLED
    response.failure.code = failure.code
    response.failure.reason = failure.reason
    response.failure.message = failure.message
    response.failure.field = failure.field
    response.failure.retry_delay_ms = failure.retry_delay_ms
    return response


def failure_of(error: MeshError) -> FailureFacts:
    """An error as facts."""
    failure = to_failure(error)
    return FailureFacts(
        code=failure.code, reason=failure.reason, message=failure.message, field=failure.field
    )
