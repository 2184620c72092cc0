"""Generations over HTTP: whole, streamed, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import LAST_EVENT_ID, Position, position_of
from mlxmesh_gateway.http.statuses import http_status
from mlxmesh_gateway.openai.answers import Chunks
from mlxmesh_gateway.openai.errors import ErrorBody
from mlxmesh_gateway.openai.parts import Part, body_of, origin_of
from mlxmesh_gateway.openai.together import all_of
from mlxmesh_gateway.openai.usage import usage
from mlxmesh_shared.errors import InvalidArgument, MeshError

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"
ATTACH = "/mlxmesh.generation.v1.GenerationService/AttachGeneration"
REQUEST_ID = "x-request-id"
"""The header of a response that names its generation."""


async def respond(exchange: Exchange, parts: Sequence[Part]) -> None:
    """Generates, and responds with the whole answer."""
    if LAST_EVENT_ID in exchange.headers:
        raise InvalidArgument(f"{LAST_EVENT_ID} needs stream: true", field=LAST_EVENT_ID)
    responses = await all_of(
        exchange.calls.unary(
            COMPLETE, pb.CompleteRequest(generation=generation), pb.CompleteResponse
        )
        for generation, _ in parts
    )
    exchange.response_headers.append((REQUEST_ID, responses[0].started.request_id))
    await exchange.respond(200, body_of(parts, responses))


async def stream(
    exchange: Exchange, part: Part, *, include_usage: bool, error_body: ErrorBody
) -> None:
    """Generates, or resumes the stream of a generation, and responds with its events."""
    generation, shape = part
    position = position_of(exchange.headers)

    def make_chunks(started: pb.Started) -> Chunks:
        origin = origin_of(started, generation)
        return Chunks(shape, origin, include_usage=include_usage)

    events = _Events(exchange, make_chunks, position or Position(0))
    exchange.keep_alive()
    try:
        if position is None:
            await exchange.calls.stream(GENERATE, generation, events.write)
        else:
            request = pb.AttachGenerationRequest(
                request_id=generation.request_id,
                after_sequence=0 if shape.replays else position.sequence,
                numbering=position.numbering,
                numbered_sequence=position.numbered_sequence,
                generation=generation,
            )
            await exchange.calls.stream(ATTACH, request, events.write_attached)
    except MeshError as error:
        await write_error(exchange, error, error_body)
    await exchange.end_events()


async def write_error(exchange: Exchange, error: MeshError, error_body: ErrorBody) -> None:
    """Writes an error as an event; raises it if there is no event yet."""
    if not exchange.started:
        raise error
    await exchange.event(json.dumps(error_body(error, http_status(error))))


class _Events:
    """Writes the messages of one generation as events."""

    def __init__(
        self,
        exchange: Exchange,
        make_chunks: Callable[[pb.Started], Chunks],
        position: Position,
    ) -> None:
        """position: up to which the client has received them before."""
        self._exchange = exchange
        self._make_chunks = make_chunks
        self._position = position
        self._chunks: Chunks

    async def write(self, encoded: bytes) -> None:
        """Writes a GenerateResponse."""
        message = pb.GenerateResponse.FromString(encoded)
        if message.HasField("started"):
            self._begin(message.started)
        await self._write(message)

    async def write_attached(self, encoded: bytes) -> None:
        """Writes an AttachGenerationResponse."""
        response = pb.AttachGenerationResponse.FromString(encoded)
        if response.HasField("started"):
            self._begin(response.started)
        await self._write(response.message)

    async def _write(self, message: pb.GenerateResponse) -> None:
        if message.HasField("delta"):
            data = self._chunks.delta(message.delta)
            if data is not None and message.sequence > self._position.sequence:
                position = Position(message.sequence, numbering=message.numbering)
                await self._exchange.event(data, event_id=str(position))
        elif message.HasField("finished"):
            await self._write_all(message, self._ending(message.finished))
        elif message.HasField("started"):
            await self._write_all(message, self._chunks.first())
        elif message.HasField("prompt_logprobs"):
            await self._write_all(message, self._chunks.prompt(message.prompt_logprobs))

    def _ending(self, finished: pb.Finished) -> Sequence[str]:
        end = self._chunks.end(finished)
        if not finished.HasField("total_usage"):
            return [end]
        return [end, *self._chunks.last(usage(finished))]

    def _begin(self, started: pb.Started) -> None:
        self._chunks = self._make_chunks(started)
        if not self._exchange.started:
            self._exchange.response_headers.append((REQUEST_ID, started.request_id))

    async def _write_all(self, message: pb.GenerateResponse, chunks: Sequence[str]) -> None:
        """The events of one message, without those that the client has."""
        position, sequence, numbering = self._position, message.sequence, message.numbering
        if sequence <= position.sequence:
            return
        skip = position.events if sequence == position.sequence + 1 else 0
        for number, data in enumerate(chunks, 1):
            if number > skip:
                part = Position(sequence - 1, number, numbering)
                reached = Position(sequence, 0, numbering) if number == len(chunks) else part
                await self._exchange.event(data, event_id=str(reached))
