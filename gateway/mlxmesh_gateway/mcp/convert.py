"""Converts between the mesh's MCP tools and the contracts' messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.model.v1.model_pb2 import Model
from mlxmesh_gateway.http.door import HttpCalls
from mlxmesh_gateway.http.model_handlers import every_model
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.mcp_server.arguments import GenerateArguments, Input
from mlxmesh_shared.mcp_server.mesh import ModelState, Piece

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COUNT_TOKENS = "/mlxmesh.generation.v1.GenerationService/CountTokens"
_ROLES = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}
_REASONS = {
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_CANCELLED: "cancelled",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


class MeshBehindDoor:
    """Satisfies Mesh: every call passes the door as the request's caller."""

    def __init__(self, calls: HttpCalls) -> None:
        self._calls = calls

    async def models(self) -> Sequence[ModelState]:
        return [_state(one) for one in await every_model(self._calls)]

    async def generate(self, asked: GenerateArguments) -> AsyncGenerator[Piece]:
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue(1)

        async def write(message: bytes) -> None:
            await pieces.put(_piece(pb.GenerateResponse.FromString(message)))

        async def run() -> None:
            await self._calls.stream(GENERATE, _generation(asked), write)
            await pieces.put(None)

        running = asyncio.create_task(run())
        try:
            while (piece := await _next(pieces, running)) is not None:
                yield piece
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def count_tokens(self, asked: Input) -> int:
        request = pb.CountTokensRequest(model=asked.model, chat=_chat(asked))
        return (await self._calls.unary(COUNT_TOKENS, request, pb.CountTokensResponse)).tokens


async def _next(pieces: asyncio.Queue[Piece | None], running: asyncio.Task[None]) -> Piece | None:
    """The next piece; None at the end. Raises: what the generation raised."""
    getting = asyncio.ensure_future(pieces.get())
    try:
        await asyncio.wait({getting, running}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        if pieces.empty():
            await running
            raise ServiceUnavailable("the generation ended without its last message")
        return await getting
    finally:
        getting.cancel()


def _state(model: Model) -> ModelState:
    return ModelState(
        name=model.name,
        aliases=list(model.aliases),
        versions=len(model.versions),
        replicas=sum(one.ready_replicas for one in model.versions),
    )


def _chat(asked: Input) -> pb.ChatInput:
    messages = [
        pb.ChatMessage(role=_ROLES[one.role], content=one.content) for one in asked.conversation
    ]
    return pb.ChatInput(messages=messages)


def _generation(asked: GenerateArguments) -> pb.GenerateRequest:
    request = pb.GenerateRequest(model=asked.model, chat=_chat(asked))
    if asked.max_tokens is not None:
        request.max_tokens = asked.max_tokens
    if asked.temperature is not None:
        request.sampling.CopyFrom(Sampling(temperature=asked.temperature))
    if asked.json_schema is not None:
        request.json_schema = json.dumps(asked.json_schema)
    return request


def _piece(message: pb.GenerateResponse) -> Piece:
    if message.HasField("started"):
        started = message.started
        return Piece(model=f"{started.model}@{started.model_version}")
    if message.HasField("finished"):
        finished = message.finished
        return Piece(
            finish_reason=_REASONS.get(finished.finish_reason, "stop"),
            prompt_tokens=finished.usage.prompt_tokens,
            completion_tokens=finished.usage.completion_tokens,
        )
    return Piece(text=message.delta.text, tokens=len(message.delta.token_ids))
