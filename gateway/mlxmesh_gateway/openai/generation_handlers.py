"""Generations over HTTP: whole, streamed, and resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import LAST_EVENT_ID, Position, position_of
from mlxmesh_gateway.http.statuses import http_status
from mlxmesh_gateway.openai.answers import Answer, Origin, Shape
from mlxmesh_gateway.openai.convert import finish_reason, usage
from mlxmesh_gateway.openai.errors import error_body
from mlxmesh_shared.errors import InvalidArgument, MeshError

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"
ATTACH = "/mlxmesh.generation.v1.GenerationService/AttachGeneration"
REQUEST_ID = "x-request-id"
"""The header of a response that names its generation."""


async def respond(exchange: Exchange, generation: pb.GenerateRequest, shape: Shape) -> None:
    """Generates, and responds with the whole answer."""
    if LAST_EVENT_ID in exchange.headers:
        raise InvalidArgument(f"{LAST_EVENT_ID} needs stream: true", field=LAST_EVENT_ID)
    request = pb.CompleteRequest(generation=generation)
    response = await exchange.calls.unary(COMPLETE, request, pb.CompleteResponse)
    reason = finish_reason(response.finished)
    answer = Answer(shape, _origin(response.started, generation.model))
    exchange.response_headers.append((REQUEST_ID, response.started.request_id))
    body = answer.whole(response.text, reason, usage(response.finished))
    await exchange.respond(200, body)


async def stream(
    exchange: Exchange, generation: pb.GenerateRequest, shape: Shape, *, include_usage: bool
) -> None:
    """Generates, or resumes the stream of a generation, and responds with its events."""
    position = position_of(exchange.headers)

    def make_answer(started: pb.Started) -> Answer:
        origin = _origin(started, generation.model)
        return Answer(shape, origin, include_usage=include_usage)

    events = _Events(exchange, make_answer, position or Position(0))
    exchange.keep_alive()
    try:
        if position is None:
            await exchange.calls.stream(GENERATE, generation, events.write)
        else:
            request = pb.AttachGenerationRequest(
                request_id=generation.request_id,
                after_sequence=position.sequence,
                generation=generation,
            )
            await exchange.calls.stream(ATTACH, request, events.write_attached)
    except MeshError as error:
        if not exchange.started:
            raise
        await exchange.event(json.dumps(error_body(error, http_status(error))))
    await exchange.end_events()


class _Events:
    """Writes the messages of one generation as events."""

    def __init__(
        self,
        exchange: Exchange,
        make_answer: Callable[[pb.Started], Answer],
        position: Position,
    ) -> None:
        """position: up to which the client has received them before."""
        self._exchange = exchange
        self._make_answer = make_answer
        self._skip = position.events
        self._answer: Answer

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
            if message.delta.text:
                data = self._answer.delta(message.delta.text)
                await self._exchange.event(data, event_id=str(message.sequence))
        elif message.HasField("started"):
            await self._write_all(message.sequence, self._answer.first())
        elif message.HasField("finished"):
            finished = message.finished
            last = self._answer.last(finish_reason(finished), usage(finished))
            await self._write_all(message.sequence, last)

    def _begin(self, started: pb.Started) -> None:
        self._answer = self._make_answer(started)
        if not self._exchange.started:
            self._exchange.response_headers.append((REQUEST_ID, started.request_id))

    async def _write_all(self, sequence: int, chunks: Sequence[str]) -> None:
        """The events of one message, without those that the client has."""
        skip, self._skip = self._skip, 0
        for number, data in enumerate(chunks, 1):
            if number > skip:
                whole = number == len(chunks)
                event_id = str(sequence) if whole else f"{sequence - 1}.{number}"
                await self._exchange.event(data, event_id=event_id)


def _origin(started: pb.Started, model: str) -> Origin:
    return Origin(
        request_id=started.request_id,
        created=started.create_time.seconds or int(time.time()),
        model=model,
        version=f"{started.model}@{started.model_version}",
    )
