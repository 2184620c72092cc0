"""/v1/batches: many requests, at half the price, within a day."""

from __future__ import annotations

import time

from mlxmesh.job.v1 import file_pb2
from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.openai.batches import convert
from mlxmesh_gateway.openai.batches.schema import BatchRequest
from mlxmesh_gateway.openai.files.upload import GET as GET_FILE
from mlxmesh_gateway.openai.paging import list_object, read_limit
from mlxmesh_gateway.openai.responses.ids import query_of
from mlxmesh_gateway.openai.together import all_of
from mlxmesh_shared.errors import InvalidArgument, JobExists, JobNotFound, MeshError

_SERVICE = "/mlxmesh.job.v1.JobService"
SUBMIT = f"{_SERVICE}/SubmitJob"
GET = f"{_SERVICE}/GetJob"
LIST = f"{_SERVICE}/ListJobs"
CANCEL = f"{_SERVICE}/CancelJob"
_PAGE = 20
MAX_PAGE = 100


async def create_batch(exchange: Exchange) -> None:
    """Stores a batch."""
    request = exchange.read(BatchRequest)
    batch_id = convert.new_batch_id(exchange.headers, exchange.calls.principal.id)
    job = convert.submission(request, batch_id, int(time.time()))
    await _check_file(exchange, request.input_file_id)
    try:
        await exchange.calls.unary(SUBMIT, job, pb.SubmitJobResponse)
    except JobExists:
        # Of a repeated request, only the deadline differs: it comes later.
        if (await _found(exchange, batch_id)).submitted.batch != job.batch:
            raise
    # A repeated request gets the batch as it is now, with what it was submitted with.
    await exchange.respond(200, await _batch(exchange, batch_id))


async def get_batch(exchange: Exchange) -> None:
    """A batch as it is now."""
    await exchange.respond(200, await _batch(exchange, exchange.path_params["batch_id"]))


async def list_batches(exchange: Exchange) -> None:
    """The caller's batches, the newest first."""
    query = query_of(exchange.query)
    request = pb.ListJobsRequest(
        kinds=[pb.JOB_KIND_BATCH],
        page_size=read_limit(query, most=MAX_PAGE, default=_PAGE),
        after_job_id=query.get("after", ""),
    )
    page = await exchange.calls.unary(LIST, request, pb.ListJobsResponse)
    shown = await all_of(_batch(exchange, job.job_id) for job in page.jobs)
    await exchange.respond(200, list_object(shown, has_more=bool(page.next_page_token)))


async def cancel_batch(exchange: Exchange) -> None:
    """Cancels a batch; one that has ended stays as it is."""
    batch_id = exchange.path_params["batch_id"]
    await _batch(exchange, batch_id)  # so that it is one
    request = pb.CancelJobRequest(job_id=batch_id)
    await exchange.calls.unary(CANCEL, request, pb.CancelJobResponse)
    await exchange.respond(200, await _batch(exchange, batch_id))


async def _batch(exchange: Exchange, batch_id: str) -> dict[str, object]:
    found = await _found(exchange, batch_id)
    return convert.batch_object(found.job, found.submitted)


async def _found(exchange: Exchange, batch_id: str) -> pb.GetJobResponse:
    request = pb.GetJobRequest(job_id=batch_id, with_work=True)
    try:
        return await exchange.calls.unary(GET, request, pb.GetJobResponse)
    except JobNotFound:
        raise convert.unknown_batch() from None


async def _check_file(exchange: Exchange, file_id: str) -> None:
    """Raises: FileNotFound, InvalidArgument."""
    request = file_pb2.GetFileRequest(file_id=file_id)
    try:
        file = (await exchange.calls.unary(GET_FILE, request, file_pb2.GetFileResponse)).file
    except MeshError as error:
        if error.field == "file_id":
            error.field = "input_file_id"
            error.message = f"input_file_id: {error.message}"
        raise
    if file.purpose != file_pb2.FILE_PURPOSE_BATCH:
        raise InvalidArgument(
            "input_file_id must be a file with the purpose batch", field="input_file_id"
        )
    if not file.complete:
        raise InvalidArgument("input_file_id must be a complete file", field="input_file_id")
