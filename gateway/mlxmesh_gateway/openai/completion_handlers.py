"""POST /v1/completions."""

from __future__ import annotations

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import request_id_of
from mlxmesh_gateway.openai.answers import TextShape
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.convert import includes_usage, text_generation
from mlxmesh_gateway.openai.generation_handlers import respond, stream


async def completions(exchange: Exchange) -> None:
    """Continues a text."""
    request = exchange.read(CompletionRequest)
    include_usage = includes_usage(request)
    generation = text_generation(request, request_id=request_id_of(exchange.headers))
    if request.stream:
        await stream(exchange, generation, TextShape(), include_usage=include_usage)
    else:
        await respond(exchange, generation, TextShape())
