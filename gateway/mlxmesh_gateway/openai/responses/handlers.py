"""POST /v1/responses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import IDEMPOTENCY_KEY, LAST_EVENT_ID
from mlxmesh_gateway.http.user_label import add_user
from mlxmesh_gateway.openai.convert import DEFAULT_TEMPERATURE
from mlxmesh_gateway.openai.labels import add_metadata
from mlxmesh_gateway.openai.responses import convert
from mlxmesh_gateway.openai.responses.background import BackgroundReaders
from mlxmesh_gateway.openai.responses.events import ResponseEvents
from mlxmesh_gateway.openai.responses.ids import after_event, new_response_id
from mlxmesh_gateway.openai.responses.input import Messages
from mlxmesh_gateway.openai.responses.objects import ResponseFacts
from mlxmesh_gateway.openai.responses.retained_handlers import CANCEL, attached, find
from mlxmesh_gateway.openai.responses.schema import ResponseRequest
from mlxmesh_gateway.openai.responses.stream import Stream, write_events
from mlxmesh_shared.errors import IllegalState, InvalidArgument, MeshError, NotFound

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"
CANCEL_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class _Planned:
    facts: ResponseFacts
    request: pb.GenerateRequest
    ends_with_client: bool
    """Whether it is cancelled when the client disconnects."""


async def create_response(exchange: Exchange, *, readers: BackgroundReaders) -> None:
    """Responds to an input: at once, as events, or in the background."""
    asked = exchange.read(ResponseRequest)
    planned = await _plan(exchange, asked)
    async with _ended_with_client(exchange, planned):
        if asked.stream:
            await _stream(exchange, planned, readers)
        elif asked.background:
            await _begin(exchange, planned, readers)
        else:
            await _complete(exchange, planned)


async def _plan(exchange: Exchange, asked: ResponseRequest) -> _Planned:
    has_key = IDEMPOTENCY_KEY in exchange.headers
    _check(exchange, asked, has_key=has_key)
    facts = ResponseFacts(
        id=new_response_id(exchange.headers),
        model=asked.model,
        instructions=asked.instructions,
        background=bool(asked.background),
        store=asked.store is not False,
        previous_response_id=asked.previous_response_id,
        metadata=asked.metadata or {},
        temperature=DEFAULT_TEMPERATURE if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        max_output_tokens=asked.max_output_tokens,
        format=convert.format_facts(asked),
    )
    request = convert.generation(asked, facts, await _earlier(exchange, asked))
    ignored = [
        *add_user(request.labels, user=asked.user, safety_identifier=asked.safety_identifier),
        *add_metadata(request, asked.metadata),
        *convert.ignored_includes(asked),
    ]
    exchange.tell_ignored(ignored)
    facts = convert.with_settings(facts, request)
    if facts.store or has_key:
        request.request_id = facts.id
    if facts.store:
        convert.keep(request, facts)
    request.detached = facts.background
    ends_with_client = not (has_key or facts.background)
    return _Planned(facts, request, ends_with_client)


def _check(exchange: Exchange, asked: ResponseRequest, *, has_key: bool) -> None:
    if asked.background and asked.store is False:
        raise InvalidArgument("store must not be false with background: true", field="store")
    if asked.stream_options is not None and not asked.stream:
        raise InvalidArgument("stream_options need stream: true", field="stream_options")
    if LAST_EVENT_ID in exchange.headers and not (has_key and asked.stream):
        raise InvalidArgument(
            f"{LAST_EVENT_ID} needs stream: true and the {IDEMPOTENCY_KEY} of the first request",
            field=LAST_EVENT_ID,
        )


async def _earlier(exchange: Exchange, asked: ResponseRequest) -> Messages:
    """The conversation up to the end of the previous response."""
    if asked.previous_response_id is None:
        return ()
    field = "previous_response_id"
    try:
        facts, snapshot = await find(exchange, asked.previous_response_id, returned=False)
    except NotFound as error:
        error.field = field
        error.message += "; or send the whole conversation as input"
        raise
    if convert.runs(snapshot) or convert.failure(snapshot) is not None:
        raise IllegalState("the previous response has not ended with an output", field=field)
    return convert.with_output(convert.conversation(snapshot.generation, facts), snapshot)


async def _complete(exchange: Exchange, planned: _Planned) -> None:
    request = pb.CompleteRequest(generation=planned.request)
    complete = await exchange.calls.unary(COMPLETE, request, pb.CompleteResponse)
    await exchange.respond(200, convert.as_response(planned.facts, complete))


async def _begin(exchange: Exchange, planned: _Planned, readers: BackgroundReaders) -> None:
    """Responds once an engine has accepted the generation."""
    await readers.start(_messages(exchange, planned))
    facts, snapshot = await find(exchange, planned.facts.id)
    await exchange.respond(200, convert.as_response(facts, snapshot))


async def _stream(exchange: Exchange, planned: _Planned, readers: BackgroundReaders) -> None:
    events = ResponseEvents(planned.facts)

    async def why(error: MeshError) -> MeshError | None:
        if not planned.request.keep_request:
            return error
        _, snapshot = await find(exchange, planned.facts.id, returned=False)
        return convert.failure(snapshot)

    after = after_event(exchange.headers, {})
    # Another generation than the one that the client has the beginning of would be another text.
    resumes = after >= 0
    await write_events(
        exchange,
        events,
        stream=_attached(exchange, planned) if resumes else _new_stream(exchange, planned, readers),
        read=partial(convert.feed_attached if resumes else convert.feed, events),
        why=why,
        after=after,
    )


def _attached(exchange: Exchange, planned: _Planned) -> Stream:
    request = pb.AttachGenerationRequest(request_id=planned.facts.id, generation=planned.request)
    return attached(exchange, planned.facts, request)


def _new_stream(exchange: Exchange, planned: _Planned, readers: BackgroundReaders) -> Stream:
    stream = _messages(exchange, planned)
    return partial(readers.follow, stream) if planned.facts.background else stream


def _messages(exchange: Exchange, planned: _Planned) -> Stream:
    calls = exchange.calls.lasting() if planned.facts.background else exchange.calls
    return lambda write: calls.stream(GENERATE, planned.request, write)


@asynccontextmanager
async def _ended_with_client(exchange: Exchange, planned: _Planned) -> AsyncGenerator[None]:
    """Cancels a retained generation with its client, or it would go on for a minute."""
    try:
        yield
    except asyncio.CancelledError:
        if planned.ends_with_client and planned.request.request_id:
            with contextlib.suppress(MeshError, TimeoutError):
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    cancel = pb.CancelGenerationRequest(request_id=planned.request.request_id)
                    await exchange.calls.unary(CANCEL, cancel, pb.CancelGenerationResponse)
        raise
