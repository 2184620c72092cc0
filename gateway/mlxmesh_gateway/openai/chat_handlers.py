"""POST /v1/chat/completions."""

from __future__ import annotations

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import request_id_of
from mlxmesh_gateway.openai.answers import ChatShape
from mlxmesh_gateway.openai.chat_schema import ChatRequest
from mlxmesh_gateway.openai.convert import chat_generation, includes_usage
from mlxmesh_gateway.openai.generation_handlers import respond, stream


async def chat_completions(exchange: Exchange) -> None:
    """Continues a conversation."""
    request = exchange.read(ChatRequest)
    include_usage = includes_usage(request)
    generation = chat_generation(request, request_id=request_id_of(exchange.headers))
    if request.stream:
        await stream(exchange, generation, ChatShape(), include_usage=include_usage)
    else:
        await respond(exchange, generation, ChatShape())
