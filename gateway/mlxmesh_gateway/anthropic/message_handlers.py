"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import json

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic.convert import (
    count_request,
    generate_request,
    message_object,
    shows_thinking,
)
from mlxmesh_gateway.anthropic.errors import error_body, error_status
from mlxmesh_gateway.anthropic.events import PING
from mlxmesh_gateway.anthropic.headers import check_headers
from mlxmesh_gateway.anthropic.position import EventId, resumed_at
from mlxmesh_gateway.anthropic.schema import CountRequest, MessageRequest
from mlxmesh_gateway.anthropic.stream.convert import StreamEvents
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import LAST_EVENT_ID, request_id_of
from mlxmesh_gateway.http.user_label import add_user
from mlxmesh_shared.errors import GenerationCancelled, InvalidArgument, MeshError

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"
ATTACH = "/mlxmesh.generation.v1.GenerationService/AttachGeneration"
COUNT_TOKENS = "/mlxmesh.generation.v1.GenerationService/CountTokens"


async def create_message(exchange: Exchange) -> None:
    """Continues a conversation."""
    check_headers(exchange)
    request = exchange.read(MessageRequest)
    generation = generate_request(request, request_id=request_id_of(exchange.headers))
    user = request.metadata.user_id if request.metadata is not None else None
    exchange.tell_ignored(
        [f"metadata.{name}" for name in add_user(generation.labels, user_id=user)]
    )
    show_thinking = shows_thinking(request)
    if request.stream:
        await _stream(exchange, generation, show_thinking=show_thinking)
    else:
        await _respond(exchange, generation, show_thinking=show_thinking)


async def count_tokens(exchange: Exchange) -> None:
    """Counts the tokens of a conversation, as it would be rendered for a message."""
    check_headers(exchange)
    request = count_request(exchange.read(CountRequest))
    response = await exchange.calls.unary(COUNT_TOKENS, request, pb.CountTokensResponse)
    await exchange.respond(200, {"input_tokens": response.tokens})


async def _respond(
    exchange: Exchange, generation: pb.GenerateRequest, *, show_thinking: bool
) -> None:
    if LAST_EVENT_ID in exchange.headers:
        raise InvalidArgument(f"{LAST_EVENT_ID} needs stream: true", field=LAST_EVENT_ID)
    request = pb.CompleteRequest(generation=generation)
    response = await exchange.calls.unary(COMPLETE, request, pb.CompleteResponse)
    await exchange.respond(200, message_object(response, show_thinking=show_thinking))


async def _stream(
    exchange: Exchange, generation: pb.GenerateRequest, *, show_thinking: bool
) -> None:
    """Starts or resumes the stream of a generation."""
    position = resumed_at(exchange.headers)
    exchange.keep_alive(PING)
    try:
        await _write_stream(exchange, generation, position, show_thinking=show_thinking)
    except MeshError as error:
        if not exchange.started:
            raise
        body = error_body(error, error_status(error), exchange.request_id)
        await exchange.event(json.dumps(body), event="error")
    await exchange.end_events()


async def _write_stream(
    exchange: Exchange,
    generation: pb.GenerateRequest,
    position: EventId | None,
    *,
    show_thinking: bool,
) -> None:
    """Raises: MeshError."""
    start = position or EventId(0)
    events = _Events(exchange, start, show_thinking=show_thinking)
    if position is None:
        await exchange.calls.stream(GENERATE, generation, events.write)
    else:
        attach = pb.AttachGenerationRequest(
            request_id=generation.request_id,
            after_sequence=position.sequence,
            numbering=position.numbering,
            numbered_sequence=position.position.numbered_sequence,
            generation=generation,
        )
        await exchange.calls.stream(ATTACH, attach, events.write_attached)
    if events.cancelled is not None:
        raise events.cancelled


class _Events:
    """Writes the messages of one generation as events."""

    def __init__(self, exchange: Exchange, start: EventId, *, show_thinking: bool) -> None:
        """start: the last event that the client has received before."""
        self.cancelled: GenerationCancelled | None = None
        """Set when another call ended the generation."""
        self._exchange = exchange
        self._events = StreamEvents(start.open_block, show_thinking=show_thinking)
        self._skip = start.events

    async def write(self, encoded: bytes) -> None:
        """Writes a GenerateResponse."""
        await self._write(pb.GenerateResponse.FromString(encoded))

    async def write_attached(self, encoded: bytes) -> None:
        """Writes an AttachGenerationResponse."""
        await self._write(pb.AttachGenerationResponse.FromString(encoded).message)

    async def _write(self, message: pb.GenerateResponse) -> None:
        before = self._events.open_block
        try:
            events = self._events.of(message)
        except GenerationCancelled as error:
            # Raised by the caller: here it would look like a failure of the instance.
            self.cancelled = error
            return
        skip, self._skip = self._skip, 0
        numbering = message.numbering
        whole = EventId(message.sequence, 0, self._events.open_block, numbering)
        for number, (name, data) in enumerate(events, 1):
            part = EventId(message.sequence - 1, number, before, numbering)
            if number > skip:
                event_id = whole if number == len(events) else part
                await self._exchange.event(data, event=name, event_id=str(event_id))
