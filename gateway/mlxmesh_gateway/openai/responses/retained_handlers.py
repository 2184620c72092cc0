"""/v1/responses/{response_id}: responses that the generation service retains."""

from __future__ import annotations

import asyncio
import contextlib

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.door import HttpCalls, Write
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.openai.responses import convert
from mlxmesh_gateway.openai.responses.disconnects import cancel
from mlxmesh_gateway.openai.responses.events import ResponseEvents
from mlxmesh_gateway.openai.responses.ids import (
    ROUND,
    EventPosition,
    after_event,
    has_tools,
    is_response_id,
    query_of,
    round_id,
    wants_stream,
    whole_number,
)
from mlxmesh_gateway.openai.responses.input import input_items
from mlxmesh_gateway.openai.responses.objects import JsonObject, ResponseFacts
from mlxmesh_gateway.openai.responses.stream import Stream, write_events
from mlxmesh_gateway.openai.responses.tool_facts import MAX_ROUNDS
from mlxmesh_gateway.openai.responses.tools.convert_replay import replayed
from mlxmesh_shared.errors import (
    FeatureNotSupported,
    GenerationNotFound,
    IllegalState,
    InvalidArgument,
    MeshError,
    NotFound,
)

GET = "/mlxmesh.generation.v1.GenerationService/GetGeneration"
ATTACH = "/mlxmesh.generation.v1.GenerationService/AttachGeneration"
MAX_PAGE = 100
_PAGE = 20
# How long a cancelled generation may take to end: a few steps of its engine.
END_WAIT_S = 2.0
_POLL_S = 0.02

Found = tuple[ResponseFacts, pb.GetGenerationResponse]


async def find(exchange: Exchange, response_id: str, *, returned: bool = True) -> Found:
    """A response, whose output counts as read if it is to be returned.

    Raises: GenerationNotFound.
    """
    if is_response_id(response_id):
        # What several generations wrote was counted when it was written.
        counts = returned and not has_tools(response_id)
        calls = exchange.calls if counts else exchange.calls.unmetered()
        snapshot = await _last(calls, response_id)
        facts = None if snapshot is None else convert.facts_of(snapshot.generation)
        if facts is not None and snapshot is not None:
            return facts, snapshot
    raise _unknown()


async def _last(calls: HttpCalls, response_id: str) -> pb.GetGenerationResponse | None:
    """The last generation of a response, which holds what the others wrote."""
    if not has_tools(response_id):
        return await _get(calls, response_id)
    found: pb.GetGenerationResponse | None = None
    for number in range(MAX_ROUNDS):
        later = await _get(calls, round_id(response_id, number))
        # The first generations of a long response may have expired.
        if later is None and found is not None:
            break
        found = later or found
    return found


async def _get(calls: HttpCalls, request_id: str) -> pb.GetGenerationResponse | None:
    request = pb.GetGenerationRequest(request_id=request_id)
    try:
        return await calls.unary(GET, request, pb.GetGenerationResponse)
    except NotFound:
        return None


async def get_response(exchange: Exchange) -> None:
    """A response as it is now, or its events."""
    query = query_of(exchange.query)
    streams = wants_stream(query)
    facts, snapshot = await find(
        exchange, exchange.path_params["response_id"], returned=not streams
    )
    if streams:
        if facts.loop is not None:
            raise FeatureNotSupported(
                "stream is not supported for a response with tools of the type mcp: retrieve it"
                " without it",
                field="stream",
            )
        position = after_event(exchange.headers, query)
        await _stream(exchange, facts, _located(position, snapshot))
        return
    if "starting_after" in query:
        raise InvalidArgument("starting_after needs stream=true", field="starting_after")
    await exchange.respond(200, _as_response(facts, snapshot))


def _as_response(facts: ResponseFacts, snapshot: pb.GetGenerationResponse) -> JsonObject:
    if facts.loop is None:
        return convert.as_response(facts, snapshot)
    return replayed(facts, snapshot).response


async def cancel_response(exchange: Exchange) -> None:
    """Ends a response that runs in the background; no-op for one that has ended."""
    facts, snapshot = await find(exchange, exchange.path_params["response_id"])
    if not facts.background:
        raise IllegalState("only a response with background: true can be cancelled")
    if convert.runs(snapshot):
        with contextlib.suppress(NotFound):  # it has ended meanwhile
            await cancel(exchange, facts.id)
        snapshot = await _ended(exchange, facts.id)
    await exchange.respond(200, convert.as_response(facts, snapshot))


async def delete_response(exchange: Exchange) -> None:
    """Ends a response and drops all that is retained of it."""
    facts, snapshot = await find(exchange, exchange.path_params["response_id"], returned=False)
    if facts.loop is None:
        await cancel(exchange, facts.id, forget=True)
    else:
        await _forget_rounds(exchange, snapshot.generation.request_id)
    await exchange.respond(200, {"id": facts.id, "object": "response", "deleted": True})


async def _forget_rounds(exchange: Exchange, last_id: str) -> None:
    """Drops all generations of a response up to its last one."""
    own_id, _, last = last_id.partition(ROUND)
    for number in range(int(last) + 1):
        with contextlib.suppress(NotFound):  # the first ones may have expired
            await cancel(exchange, round_id(own_id, number), forget=True)


async def list_input_items(exchange: Exchange) -> None:
    """The conversation that a response continues, without its instructions."""
    facts, snapshot = await find(exchange, exchange.path_params["response_id"], returned=False)
    messages = convert.conversation(snapshot.generation, facts)
    if facts.loop is not None:
        messages = messages[: facts.loop.inputs]
    items = input_items(messages, facts.id)
    await exchange.respond(200, _page(items, query_of(exchange.query)))


async def locate(exchange: Exchange, request_id: str, position: EventPosition) -> EventPosition:
    """With a number alone, it is one of the instance that the stream moved to last."""
    calls = exchange.calls.unmetered()
    newest = None if position.numbering else await _get(calls, request_id)
    return position if newest is None else _located(position, newest)


def _located(position: EventPosition, newest: pb.GetGenerationResponse) -> EventPosition:
    if position.numbering:
        return position
    return position._replace(numbering=newest.numbering, last_numbered=newest.last_sequence)


async def _stream(exchange: Exchange, facts: ResponseFacts, position: EventPosition) -> None:
    events = ResponseEvents(facts)
    request = pb.AttachGenerationRequest(
        request_id=facts.id, numbering=position.numbering, numbered_sequence=position.message
    )

    async def why(_error: MeshError) -> MeshError | None:
        return convert.failure((await find(exchange, facts.id, returned=False))[1])

    await write_events(
        exchange,
        events,
        stream=attached(exchange, facts, request),
        read=convert.attached_message,
        why=why,
        after=position,
    )


def attached(
    exchange: Exchange, facts: ResponseFacts, request: pb.AttachGenerationRequest
) -> Stream:
    """The stream of a response that began before."""

    async def stream(write: Write) -> None:
        calls = exchange.calls.lasting() if facts.background else exchange.calls
        try:
            await calls.stream(ATTACH, request, write)
        except NotFound as error:
            if error.field == "numbering":
                raise
            raise _unknown() from None

    return stream


async def _ended(exchange: Exchange, response_id: str) -> pb.GetGenerationResponse:
    """A cancelled generation once it has ended; as it is then if that takes too long."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + END_WAIT_S
    while True:
        _, snapshot = await find(exchange, response_id)
        if not convert.runs(snapshot) or loop.time() > until_s:
            return snapshot
        await asyncio.sleep(_POLL_S)


def _page(items: list[JsonObject], query: dict[str, str]) -> JsonObject:
    """A page of items. Raises: InvalidArgument."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidArgument("order must be asc or desc", field="order")
    limit = whole_number(query.get("limit", str(_PAGE)), "limit")
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidArgument(f"limit must be from 1 to {MAX_PAGE}", field="limit")
    ordered = items if order == "asc" else items[::-1]
    start = _start(ordered, query.get("after"))
    page = ordered[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(ordered),
    }


def _start(items: list[JsonObject], after: str | None) -> int:
    if after is None:
        return 0
    for number, item in enumerate(items):
        if item["id"] == after:
            return number + 1
    raise InvalidArgument("after must be the id of an item", field="after")


def _unknown() -> GenerationNotFound:
    return GenerationNotFound(
        "no response with this id is retained; responses are for five minutes after their end"
        " unless the mesh is set otherwise, and with store: false not at all",
        field="response_id",
    )
