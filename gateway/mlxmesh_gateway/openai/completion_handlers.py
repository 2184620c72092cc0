"""POST /v1/completions."""

from __future__ import annotations

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import request_id_of
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.convert import includes_usage
from mlxmesh_gateway.openai.errors import completion_error_body
from mlxmesh_gateway.openai.generation_handlers import respond, stream
from mlxmesh_gateway.openai.parts import text_parts
from mlxmesh_gateway.openai.several_prompts import stream_several


async def completions(exchange: Exchange) -> None:
    """Continues texts."""
    request = exchange.read(CompletionRequest)
    include_usage = includes_usage(request)
    parts, ignored = text_parts(request, request_id_of(exchange.headers))
    exchange.tell_ignored(ignored)
    errors = completion_error_body
    if not request.stream:
        await respond(exchange, parts)
    elif len(parts) == 1:
        await stream(exchange, parts[0], include_usage=include_usage, error_body=errors)
    else:
        await stream_several(exchange, parts, include_usage=include_usage, error_body=errors)
