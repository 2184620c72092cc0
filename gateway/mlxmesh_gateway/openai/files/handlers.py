"""/v1/files: files of batches and of jobs."""

from __future__ import annotations

from urllib.parse import quote

from mlxmesh.job.v1 import file_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.multipart import read_form
from mlxmesh_gateway.openai.files import convert
from mlxmesh_gateway.openai.files.upload import DELETE, GET, LIST, READ, upload
from mlxmesh_gateway.openai.paging import list_object, read_limit, read_order
from mlxmesh_gateway.openai.responses.ids import query_of
from mlxmesh_shared.errors import IllegalState, InvalidArgument

_PAGE = 1_000
MAX_LIMIT = 10_000
_KNOWN = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})


async def create_file(exchange: Exchange) -> None:
    """Stores a file that a form has."""
    file, fields = await upload(
        exchange.calls.lasting(), read_form(exchange.body_parts(), exchange.headers)
    )
    exchange.tell_ignored(sorted(fields.keys() - _KNOWN))
    await exchange.respond(200, convert.file_object(file))


async def list_files(exchange: Exchange) -> None:
    """The caller's files."""
    query = query_of(exchange.query)
    limit = read_limit(query, most=MAX_LIMIT, default=MAX_LIMIT)
    request = pb.ListFilesRequest(
        after_file_id=query.get("after", ""), oldest_first=read_order(query) == "asc"
    )
    if "purpose" in query:
        request.purpose = convert.listed_purpose(query["purpose"])
    files: list[pb.File] = []
    while True:
        request.page_size = min(_PAGE, limit - len(files))
        page = await exchange.calls.unary(LIST, request, pb.ListFilesResponse)
        files += page.files
        if not page.next_page_token or len(files) >= limit:
            break
        request.after_file_id = ""
        request.page_token = page.next_page_token
    shown = [convert.file_object(one) for one in files]
    await exchange.respond(200, list_object(shown, has_more=bool(page.next_page_token)))


async def get_file(exchange: Exchange) -> None:
    """What is known of a file."""
    await exchange.respond(200, convert.file_object(await _file(exchange)))


async def get_content(exchange: Exchange) -> None:
    """The bytes of a file."""
    file = await _file(exchange)
    if not file.complete:
        raise IllegalState("the file is not complete")
    await exchange.begin_stream(
        [
            ("content-length", str(file.size_bytes)),
            # A browser must not show what a caller uploaded as a page of this origin.
            ("content-disposition", f"attachment; filename*=UTF-8''{quote(file.name)}"),
            ("x-content-type-options", "nosniff"),
        ],
        content_type=file.media_type or "application/octet-stream",
    )

    async def write(message: bytes) -> None:
        await exchange.write_stream(pb.ReadFileResponse.FromString(message).data)

    request = pb.ReadFileRequest(file_id=file.file_id)
    await exchange.calls.lasting().stream(READ, request, write)
    await exchange.end_stream()


async def delete_file(exchange: Exchange) -> None:
    """Removes a file."""
    file_id = exchange.path_params["file_id"]
    request = pb.DeleteFileRequest(file_id=file_id)
    await exchange.calls.unary(DELETE, request, pb.DeleteFileResponse)
    await exchange.respond(200, {"id": file_id, "object": "file", "deleted": True})


async def _file(exchange: Exchange) -> pb.File:
    file_id = exchange.path_params["file_id"]
    if not file_id:
        raise InvalidArgument("file_id is required", field="file_id")
    request = pb.GetFileRequest(file_id=file_id)
    return (await exchange.calls.unary(GET, request, pb.GetFileResponse)).file
