"""The route of the mesh's MCP server.

Source: Model Context Protocol, Streamable HTTP. Without sessions there is nothing to GET or DELETE.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.routing import Route

from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.model_handlers import LIST_MODELS
from mlxmesh_gateway.mcp.service import CALLS, McpService
from mlxmesh_shared.errors import MeshError

_SERVER_ERROR = -32000
_BODY = "body"


def mcp_routes(parts: EdgeParts) -> list[Route]:
    """POST /mcp. Its callers may list models; what a tool calls passes the door by itself."""
    service = McpService(max_body_bytes=parts.door.max_body_bytes)
    parts.ending.push_async_callback(service.close)
    return [
        parts.route(
            "POST",
            "/mcp",
            method=LIST_MODELS,
            handle=partial(_serve, service=service),
            error_body=_error_body,
            parse=_as_it_is,
            summary="Speak the Model Context Protocol: the mesh's tools.",
        )
    ]


async def _serve(exchange: Exchange, *, service: McpService) -> None:
    await exchange.delegate(service, exchange.body[_BODY], {CALLS: exchange.calls})


async def _as_it_is(body: bytes, _headers: Mapping[str, str]) -> dict[str, Any]:
    return {_BODY: body}


def _error_body(error: MeshError, _status: int) -> dict[str, object]:
    """A JSON-RPC error that belongs to no request."""
    return {
        "jsonrpc": "2.0",
        "id": None,
        "error": {
            "code": _SERVER_ERROR,
            "message": error.message,
            "data": {"reason": error.reason},
        },
    }
