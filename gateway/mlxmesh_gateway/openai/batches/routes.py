"""The routes of OpenAI's files and batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.routing import Route

from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.openai.batches import handlers as batches
from mlxmesh_gateway.openai.batches.schema import BatchRequest
from mlxmesh_gateway.openai.errors import batch_error_body
from mlxmesh_gateway.openai.files import handlers as files
from mlxmesh_gateway.openai.files import upload
from mlxmesh_gateway.openai.files.schema import FileForm

_FILES, _BATCHES = "/v1/files", "/v1/batches"
_FILE, _BATCH = f"{_FILES}/{{file_id}}", f"{_BATCHES}/{{batch_id}}"


def file_routes(parts: EdgeParts) -> Sequence[Route]:
    """All routes below /v1/files."""
    route = partial(parts.route, error_body=batch_error_body)
    return [
        route(
            "POST",
            _FILES,
            method=upload.CREATE,
            handle=files.create_file,
            summary="Upload a file.",
            request=FileForm,
            streams_body=True,
        ),
        route(
            "GET", _FILES, method=upload.LIST, handle=files.list_files, summary="List the files."
        ),
        route("GET", _FILE, method=upload.GET, handle=files.get_file, summary="Show a file."),
        route(
            "DELETE",
            _FILE,
            method=upload.DELETE,
            handle=files.delete_file,
            summary="Remove a file.",
        ),
        route(
            "GET",
            f"{_FILE}/content",
            method=upload.READ,
            handle=files.get_content,
            summary="Return the bytes of a file.",
        ),
    ]


def batch_routes(parts: EdgeParts) -> Sequence[Route]:
    """All routes below /v1/batches."""
    route = partial(parts.route, error_body=batch_error_body)
    return [
        route(
            "POST",
            _BATCHES,
            method=batches.SUBMIT,
            handle=batches.create_batch,
            summary="Run the requests of a file.",
            request=BatchRequest,
        ),
        route(
            "GET",
            _BATCHES,
            method=batches.LIST,
            handle=batches.list_batches,
            summary="List the batches.",
        ),
        route("GET", _BATCH, method=batches.GET, handle=batches.get_batch, summary="Show a batch."),
        route(
            "POST",
            f"{_BATCH}/cancel",
            method=batches.CANCEL,
            handle=batches.cancel_batch,
            summary="Cancel a batch.",
            has_body=False,
        ),
    ]
