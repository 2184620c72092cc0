"""The routes of the Responses API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.routing import Route

from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.openai.errors import response_error_body
from mlxmesh_gateway.openai.responses.background import BackgroundReaders
from mlxmesh_gateway.openai.responses.disconnects import CANCEL
from mlxmesh_gateway.openai.responses.handlers import GENERATE, create_response
from mlxmesh_gateway.openai.responses.retained_handlers import (
    GET,
    cancel_response,
    delete_response,
    get_response,
    list_input_items,
)
from mlxmesh_gateway.openai.responses.schema import ResponseRequest

_ROOT = "/v1/responses"
_ONE = f"{_ROOT}/{{response_id}}"


def response_routes(parts: EdgeParts) -> Sequence[Route]:
    """All routes below /v1/responses."""
    route = partial(parts.route, error_body=response_error_body)
    readers = BackgroundReaders()
    parts.ending.push_async_callback(readers.close)
    return [
        route(
            "POST",
            _ROOT,
            method=GENERATE,
            handle=partial(create_response, readers=readers, tool_limits=parts.tool_limits),
            summary="Respond to an input.",
            request=ResponseRequest,
        ),
        route(
            "GET",
            _ONE,
            method=GET,
            handle=get_response,
            summary="Return a response or its events.",
        ),
        route("DELETE", _ONE, method=CANCEL, handle=delete_response, summary="Drop a response."),
        route(
            "POST",
            f"{_ONE}/cancel",
            method=CANCEL,
            handle=cancel_response,
            summary="End a response that runs in the background.",
            has_body=False,
        ),
        route(
            "GET",
            f"{_ONE}/input_items",
            method=GET,
            handle=list_input_items,
            summary="List the conversation that a response continues.",
        ),
    ]
