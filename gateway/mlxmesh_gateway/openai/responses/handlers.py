"""POST /v1/responses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.edge import ToolLimits
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import IDEMPOTENCY_KEY, LAST_EVENT_ID
from mlxmesh_gateway.openai.responses import convert
from mlxmesh_gateway.openai.responses.background import BackgroundReaders
from mlxmesh_gateway.openai.responses.disconnects import ended_with_client
from mlxmesh_gateway.openai.responses.events import ResponseEvents
from mlxmesh_gateway.openai.responses.ids import EventPosition, after_event, new_response_id
from mlxmesh_gateway.openai.responses.input import Messages
from mlxmesh_gateway.openai.responses.objects import ResponseFacts
from mlxmesh_gateway.openai.responses.plan import new_facts, planned
from mlxmesh_gateway.openai.responses.retained_handlers import attached, find, locate
from mlxmesh_gateway.openai.responses.schema import ResponseRequest
from mlxmesh_gateway.openai.responses.stream import Stream, write_events
from mlxmesh_gateway.openai.responses.tools.convert_replay import replayed
from mlxmesh_gateway.openai.responses.tools.handlers import (
    Earlier,
    create_tool_response,
    has_tools,
)
from mlxmesh_shared.errors import IllegalState, InvalidArgument, MeshError, NotFound

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"


@dataclass(frozen=True, slots=True)
class _Planned:
    facts: ResponseFacts
    request: pb.GenerateRequest
    ends_with_client: bool
    """Whether it is cancelled when the client disconnects."""


async def create_response(
    exchange: Exchange, *, readers: BackgroundReaders, tool_limits: ToolLimits
) -> None:
    """Responds to an input: at once, as events, or in the background."""
    asked = exchange.read(ResponseRequest)
    _check(exchange, asked)
    earlier = await _earlier(exchange, asked)
    if has_tools(asked, earlier):
        await create_tool_response(exchange, asked, earlier, tool_limits)
        return
    planned = _plan(exchange, asked, earlier.messages)
    own_id = planned.request.request_id if planned.ends_with_client else ""
    async with ended_with_client(exchange, lambda: own_id):
        if asked.stream:
            await _stream(exchange, planned, readers)
        elif asked.background:
            await _begin(exchange, planned, readers)
        else:
            await _complete(exchange, planned)


def _plan(exchange: Exchange, asked: ResponseRequest, earlier: Messages) -> _Planned:
    has_key = IDEMPOTENCY_KEY in exchange.headers
    facts = new_facts(asked, new_response_id(exchange.headers))
    request, facts, ignored = planned(asked, facts, earlier)
    exchange.tell_ignored(ignored)
    if facts.store or has_key:
        request.request_id = facts.id
    if facts.store:
        convert.keep(request, facts)
    request.detached = facts.background
    ends_with_client = not (has_key or facts.background)
    return _Planned(facts, request, ends_with_client)


def _check(exchange: Exchange, asked: ResponseRequest) -> None:
    has_key = IDEMPOTENCY_KEY in exchange.headers
    if asked.background and asked.store is False:
        raise InvalidArgument("store must not be false with background: true", field="store")
    if asked.stream_options is not None and not asked.stream:
        raise InvalidArgument("stream_options need stream: true", field="stream_options")
    if LAST_EVENT_ID in exchange.headers and not (has_key and asked.stream):
        raise InvalidArgument(
            f"{LAST_EVENT_ID} needs stream: true and the {IDEMPOTENCY_KEY} of the first request",
            field=LAST_EVENT_ID,
        )


async def _earlier(exchange: Exchange, asked: ResponseRequest) -> Earlier:
    """The conversation up to the end of the previous response."""
    if asked.previous_response_id is None:
        return Earlier()
    field = "previous_response_id"
    try:
        facts, snapshot = await find(exchange, asked.previous_response_id, returned=False)
    except NotFound as error:
        error.field = field
        error.message += "; or send the whole conversation as input"
        raise
    if convert.runs(snapshot) or convert.failure(snapshot) is not None:
        raise IllegalState("the previous response has not ended with an output", field=field)
    if facts.loop is None:
        messages = convert.conversation(snapshot.generation, facts)
        return Earlier(convert.with_output(messages, snapshot))
    ended = replayed(facts, snapshot)
    if ended.runs:
        raise IllegalState("the previous response has not ended with an output", field=field)
    messages = convert.conversation(snapshot.generation, facts)
    return Earlier([*messages, ended.output], ended.pending)


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

    position = after_event(exchange.headers, {})
    # Another generation than the one that the client has the beginning of would be another text.
    resumes = position.event >= 0
    if resumes:
        position = await locate(exchange, planned.facts.id, position)
        stream, read = _attached(exchange, planned, position), convert.attached_message
    else:
        stream, read = _new_stream(exchange, planned, readers), pb.GenerateResponse.FromString
    await write_events(exchange, events, stream=stream, read=read, why=why, after=position)


def _attached(exchange: Exchange, planned: _Planned, position: EventPosition) -> Stream:
    request = pb.AttachGenerationRequest(
        request_id=planned.facts.id,
        generation=planned.request,
        numbering=position.numbering,
        numbered_sequence=position.message,
    )
    return attached(exchange, planned.facts, request)


def _new_stream(exchange: Exchange, planned: _Planned, readers: BackgroundReaders) -> Stream:
    stream = _messages(exchange, planned)
    return partial(readers.follow, stream) if planned.facts.background else stream


def _messages(exchange: Exchange, planned: _Planned) -> Stream:
    calls = exchange.calls.lasting() if planned.facts.background else exchange.calls
    return lambda write: calls.stream(GENERATE, planned.request, write)
