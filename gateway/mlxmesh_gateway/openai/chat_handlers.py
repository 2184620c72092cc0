"""POST /v1/chat/completions."""

from __future__ import annotations

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import request_id_of
from mlxmesh_gateway.openai.chat_schema import ChatRequest
from mlxmesh_gateway.openai.convert import includes_usage
from mlxmesh_gateway.openai.errors import chat_error_body
from mlxmesh_gateway.openai.generation_handlers import respond, stream
from mlxmesh_gateway.openai.parts import chat_part


async def chat_completions(exchange: Exchange) -> None:
    """Continues a conversation."""
    request = exchange.read(ChatRequest)
    include_usage = includes_usage(request)
    part, ignored = chat_part(request, request_id_of(exchange.headers))
    exchange.tell_ignored(ignored)
    if request.stream:
        await stream(exchange, part, include_usage=include_usage, error_body=chat_error_body)
    else:
        await respond(exchange, [part])
