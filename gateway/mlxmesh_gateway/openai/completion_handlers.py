"""POST /v1/completions."""

from __future__ import annotations

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import request_id_of
from mlxmesh_gateway.http.user_label import add_user
from mlxmesh_gateway.openai.completion_convert import text_generations
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.convert import includes_usage
from mlxmesh_gateway.openai.errors import completion_error_body
from mlxmesh_gateway.openai.generation_handlers import Part, respond, stream
from mlxmesh_gateway.openai.several_prompts import stream_several
from mlxmesh_gateway.openai.shapes import TextShape


async def completions(exchange: Exchange) -> None:
    """Continues texts."""
    request = exchange.read(CompletionRequest)
    include_usage = includes_usage(request)
    generations = text_generations(request, request_id=request_id_of(exchange.headers))
    exchange.tell_ignored(
        [name for each in generations for name in add_user(each.labels, user=request.user)]
    )
    parts: list[Part] = [
        (generation, _shape(request, generation, number))
        for number, generation in enumerate(generations)
    ]
    errors = completion_error_body
    if not request.stream:
        await respond(exchange, parts)
    elif len(parts) == 1:
        await stream(exchange, parts[0], include_usage=include_usage, error_body=errors)
    else:
        await stream_several(exchange, parts, include_usage=include_usage, error_body=errors)


def _shape(request: CompletionRequest, generation: pb.GenerateRequest, number: int) -> TextShape:
    outputs = generation.n or 1
    return TextShape(
        outputs=outputs,
        first_index=number * outputs,
        logprobs=request.logprobs is not None,
        echo=bool(request.echo),
        prompt=generation.prompt if generation.HasField("prompt") else None,
    )
