"""Commands that observe a mesh: events, top, trace."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.session import (
    Address,
    DataDir,
    Json,
    JsonLines,
    connect,
    gateway_address,
    run,
)
from mlxmesh_cli.screen.output import (
    console,
    is_watched,
    print_json,
    print_json_line,
    print_view,
    say,
    to_dict,
)

if TYPE_CHECKING:
    from mlxmesh.telemetry.v1.events_pb2 import WatchEventsResponse
    from mlxmesh.telemetry.v1.telemetry_pb2 import GetTraceResponse
    from mlxmesh_client import MeshClient
    from mlxmesh_shared.errors import MeshError

# Processes tell of their spans every second: a trace is whole a while after its request.
WHOLE_AFTER_MS = 1500
PATIENCE_S = 4.0
POLL_S = 0.25
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as they happen, until Ctrl-C.")
    ] = False,
    name: Annotated[
        list[str] | None, typer.Option(help="Only this one, or `model.*`; may be repeated.")
    ] = None,
    about: Annotated[
        str,
        typer.Option(help="Only of this request id, engine, instance or NAME@VERSION."),
    ] = "",
    since: Annotated[
        int | None, typer.Option(min=0, help="Only events after this number.  [default: all kept]")
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: JsonLines = False,
) -> None:
    """Show what happened in the mesh: models, engines, instances, resumed streams, breakers.

    A gateway keeps its last 4096 events. With TLS, only admins may see them.
    """
    wanted: dict[str, Any] = {"after_sequence": since, "names": name or [], "correlation_id": about}

    async def work() -> None:
        async with (
            connect(address, data_dir) as client,
            aclosing(_news(client, follow, wanted)) as news,
        ):
            async for one in news:
                _print(one, json)
                if one.HasField("synced") and not follow:
                    return

    run(work())


def _news(
    client: MeshClient, follow: bool, wanted: dict[str, Any]
) -> AsyncGenerator[WatchEventsResponse]:
    return (
        client.follow_events(**wanted, on_lost=_told_lost)
        if follow
        else client.watch_events(**wanted)
    )


def _told_lost(error: MeshError) -> None:
    say(f"the gateway is away ({error.reason}); waiting for it", "yellow", err=True)


def _print(one: WatchEventsResponse, json: bool) -> None:
    from mlxmesh_cli.screen.event_lines import event_line, gap_line

    if json:
        _print_json(one)
    elif one.HasField("event"):
        console().print(event_line(one.event), soft_wrap=True)
    elif one.HasField("gap"):
        say(gap_line(one.gap).plain, "red", err=True)


def _print_json(one: WatchEventsResponse) -> None:
    """An event with the fields of the contract; a gap as {"gap": ...}."""
    if one.HasField("event"):
        print_json_line(to_dict(one.event))
    elif one.HasField("gap"):
        print_json_line({"gap": to_dict(one.gap)})


def top(
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Watch a mesh at work: traffic, engines, services, the last events. Ctrl-C ends it.

    Times are milliseconds: ttft to the first output, gap from one message to the next. With --json,
    or where nobody watches a screen, it looks once.
    """
    from rich.console import Console

    from mlxmesh_cli.commands.live_view import Look, as_json, watch
    from mlxmesh_cli.screen.top_view import frame

    async def work() -> None:
        async with connect(address, data_dir) as client:
            look = Look(client, gateway_address(address, data_dir))
            if json:
                print_json(await as_json(look))
            elif is_watched():
                await watch(look, Console(), interval_s)
            else:
                await look.once()
                print_view(frame(look.screen))

    run(work())


def trace(
    request: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="A request's id, or its trace's: 32 digits.")
    ],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show the timeline of one recent request: what each process did for it, and how long."""
    response = run(_asked(request, address, data_dir))
    if json:
        print_json(to_dict(response))
        return
    from mlxmesh_cli.screen.timeline import timeline

    print_view(timeline(response.spans))


async def _asked(request: str, address: str | None, data_dir: DataDir) -> GetTraceResponse:
    from rich.console import Console

    # A trace that is not there yet is waited for; whoever watches is told why.
    with Console(stderr=True).status("waiting for the whole trace"):
        async with connect(address, data_dir) as client:
            return await whole_trace(client, request)


async def whole_trace(client: MeshClient, request: str) -> GetTraceResponse:
    """The trace of one request; one that is not whole yet is waited for. Raises: TraceNotFound."""
    from mlxmesh_shared.errors import TraceNotFound

    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            response = await _ask(client, request)
            if response.settled_ms >= WHOLE_AFTER_MS or time.monotonic() >= until_s:
                return response
        except TraceNotFound:
            if time.monotonic() >= until_s:
                raise
        await asyncio.sleep(POLL_S)


async def _ask(client: MeshClient, request: str) -> GetTraceResponse:
    from mlxmesh_shared.errors import TraceNotFound

    try:
        return await client.trace(request)
    except TraceNotFound:
        if not _TRACE_ID.fullmatch(request):
            raise
        return await client.trace(trace_id=request)
