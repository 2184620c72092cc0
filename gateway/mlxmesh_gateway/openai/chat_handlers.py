"""POST /v1/chat/completions."""

from __future__ import annotations

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import request_id_of
from mlxmesh_gateway.http.user_label import add_user
from mlxmesh_gateway.openai.chat_convert import chat_generation
from mlxmesh_gateway.openai.chat_schema import ChatRequest
from mlxmesh_gateway.openai.convert import includes_usage
from mlxmesh_gateway.openai.errors import chat_error_body
from mlxmesh_gateway.openai.generation_handlers import respond, stream
from mlxmesh_gateway.openai.labels import add_metadata
from mlxmesh_gateway.openai.shapes import ChatShape


async def chat_completions(exchange: Exchange) -> None:
    """Continues a conversation."""
    request = exchange.read(ChatRequest)
    include_usage = includes_usage(request)
    generation = chat_generation(request, request_id=request_id_of(exchange.headers))
    ignored = add_user(
        generation.labels, user=request.user, safety_identifier=request.safety_identifier
    )
    exchange.tell_ignored([*ignored, *add_metadata(generation, request.metadata)])
    shape = ChatShape(outputs=generation.n or 1, logprobs=bool(request.logprobs))
    part = (generation, shape)
    if request.stream:
        await stream(exchange, part, include_usage=include_usage, error_body=chat_error_body)
    else:
        await respond(exchange, [part])
