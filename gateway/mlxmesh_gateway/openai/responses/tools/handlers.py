"""POST /v1/responses with tools of MCP servers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlxmesh_gateway.http.edge import ToolLimits
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.idempotency import IDEMPOTENCY_KEY
from mlxmesh_gateway.openai.responses.approvals import Answer, Pending, answers
from mlxmesh_gateway.openai.responses.convert import client_functions
from mlxmesh_gateway.openai.responses.disconnects import ended_with_client
from mlxmesh_gateway.openai.responses.events import Event
from mlxmesh_gateway.openai.responses.ids import new_tool_response_id
from mlxmesh_gateway.openai.responses.input import Messages
from mlxmesh_gateway.openai.responses.plan import new_facts, planned
from mlxmesh_gateway.openai.responses.schema import ResponseRequest, ResponseTool
from mlxmesh_gateway.openai.responses.stream import write_event
from mlxmesh_gateway.openai.responses.tool_facts import MAX_TOOL_CALLS, LoopFacts
from mlxmesh_gateway.openai.responses.toolbox import ServerTool, Toolbox, toolbox_of
from mlxmesh_gateway.openai.responses.tools import convert
from mlxmesh_gateway.openai.responses.tools.convert_rounds import first_round
from mlxmesh_gateway.openai.responses.tools.loop import ToolLoop
from mlxmesh_gateway.openai.together import all_of
from mlxmesh_shared.errors import (
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
    NotFound,
    NotStarted,
)


@dataclass(frozen=True, slots=True)
class Earlier:
    """A conversation up to the end of a response."""

    messages: Messages = ()
    pending: dict[str, Pending] = field(default_factory=dict[str, Pending])
    """Calls that wait for an approval, by the ids of the requests."""


def has_tools(asked: ResponseRequest, earlier: Earlier) -> bool:
    """Whether the gateway may have to call tools."""
    calls = any(one.type == "mcp" for one in asked.tools or ())
    return calls or bool(answers(asked.input, earlier.pending))


async def create_tool_response(
    exchange: Exchange, asked: ResponseRequest, earlier: Earlier, limits: ToolLimits
) -> None:
    """Responds to an input, calling tools in between: at once, or as events."""
    _check(exchange, asked)
    total_s = limits.deadline_s(exchange.calls.remaining_s)
    calls = exchange.calls.within(total_s)
    toolbox = await _toolbox(exchange, asked)
    given = answers(asked.input, earlier.pending)
    _check_approved(given, toolbox)
    facts = new_facts(asked, new_tool_response_id())
    request, facts, ignored = planned(
        asked, facts, earlier.messages, toolbox=toolbox, answers=given
    )
    exchange.tell_ignored(ignored)
    now_s = time.time()
    loop = LoopFacts(listings=toolbox.listings, created_s=now_s, until_s=now_s + total_s)
    first = first_round(asked, facts, loop, request)
    assert first.facts.loop is not None
    running = ToolLoop(calls, first, first.facts.loop, given, limits)
    async with ended_with_client(exchange, lambda: running.request_id):
        if asked.stream:
            await _stream(exchange, running)
        else:
            await running.run(_drop)
            await exchange.respond(200, running.events.response)


def _check(exchange: Exchange, asked: ResponseRequest) -> None:
    if asked.background:
        raise FeatureNotSupported(
            "background is not supported with tools of the type mcp: what the gateway has called"
            " would be lost with it; stream the response instead",
            field="background",
        )
    if IDEMPOTENCY_KEY in exchange.headers:
        raise FeatureNotSupported(
            f"the header {IDEMPOTENCY_KEY} is not supported with tools of the type mcp, which a"
            " repeated request would call again",
            field=IDEMPOTENCY_KEY,
        )
    if asked.max_tool_calls is not None and asked.max_tool_calls > MAX_TOOL_CALLS:
        raise InvalidArgument(
            f"max_tool_calls must be at most {MAX_TOOL_CALLS}", field="max_tool_calls"
        )


def _check_approved(given: Sequence[Answer], toolbox: Toolbox) -> None:
    for answer in given:
        if answer.approve and toolbox.find(answer.call.label, answer.call.name) is None:
            raise InvalidArgument(
                "input approves a call of a tool that is not among tools: send the same tools as"
                " in the request that asked for the approval",
                field="tools",
            )


async def _toolbox(exchange: Exchange, asked: ResponseRequest) -> Toolbox:
    """The tools of the servers that the request names. Raises: InvalidArgument."""
    labels: set[str] = set()
    named: list[tuple[int, ResponseTool]] = []
    for number, tool in enumerate(asked.tools or ()):
        if tool.type == "mcp":
            where = f"tools.{number}.server_label"
            if not tool.server_label:
                raise InvalidArgument(f"{where} is required", field=where)
            if tool.server_label in labels:
                raise InvalidArgument(f"{where} is there twice", field=where)
            labels.add(tool.server_label)
            named.append((number, tool))
    found = await all_of(_list(exchange, number, tool) for number, tool in named)
    return toolbox_of(found, [one.name for one in client_functions(asked)])


async def _list(
    exchange: Exchange, number: int, tool: ResponseTool
) -> tuple[ResponseTool, Sequence[ServerTool], str]:
    """What a server offers, or why it offers nothing."""
    try:
        return tool, await convert.list_tools(exchange.calls, tool.server_label or ""), ""
    except (InvalidArgument, NotFound, NotStarted):
        where = f"tools.{number}.server_label"
        raise InvalidArgument(
            f"{where} must be the name of an MCP server of the mesh that you may use;"
            " `mlxmesh mcp list` lists them, and an administrator adds one with `mlxmesh mcp add`",
            field=where,
        ) from None
    except MeshError as error:
        return tool, (), error.message


async def _stream(exchange: Exchange, running: ToolLoop) -> None:
    async def write(events: Sequence[Event]) -> None:
        for event in events:
            await write_event(exchange, event)

    exchange.keep_alive()
    try:
        await running.run(write)
    except MeshError as error:
        if not exchange.started:
            raise
        await write(running.events.failed(error))
    await exchange.end_events()


async def _drop(_events: Sequence[Event]) -> None: ...
