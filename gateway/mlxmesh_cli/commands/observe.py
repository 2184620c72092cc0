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
    is_terminal,
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

# Processes export their spans every second: a trace is complete some time after its request.
COMPLETE_AFTER_MS = 1500
TRACE_TIMEOUT_S = 4.0
POLL_S = 0.25
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new events too, until Ctrl-C.")
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Only events with this name, or `model.*`; may be repeated."
        ),
    ] = None,
    about: Annotated[
        str,
        typer.Option(help="Only events about this request id, engine, instance or NAME@VERSION."),
    ] = "",
    since: Annotated[
        int | None,
        typer.Option(
            min=0, help="Only events after this sequence number.  [default: all retained events]"
        ),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: JsonLines = False,
) -> None:
    """Show events: models, engines, instances, resumed streams, circuit breakers.

    A gateway retains its last 4096 events. With TLS, only admins may read them.
    """
    wanted: dict[str, Any] = {"after_sequence": since, "names": name or [], "correlation_id": about}

    async def work() -> None:
        async with (
            connect(address, data_dir) as client,
            aclosing(_watch(client, follow, wanted)) as responses,
        ):
            async for one in responses:
                _print(one, json)
                if one.HasField("synced") and not follow:
                    return

    run(work())


def _watch(
    client: MeshClient, follow: bool, wanted: dict[str, Any]
) -> AsyncGenerator[WatchEventsResponse]:
    return (
        client.follow_events(**wanted, on_lost=_report_loss)
        if follow
        else client.watch_events(**wanted)
    )


def _report_loss(error: MeshError) -> None:
    say(f"the gateway is unavailable ({error.reason}); reconnecting", "yellow", err=True)


def _print(one: WatchEventsResponse, json: bool) -> None:
    from mlxmesh_cli.screen.event_lines import event_line, gap_line

    if json:
        _print_json(one)
    elif one.HasField("event"):
        console().print(event_line(one.event), soft_wrap=True)
    elif one.HasField("gap"):
        say(gap_line(one.gap).plain, "red", err=True)


def _print_json(one: WatchEventsResponse) -> None:
    """Prints an event with the fields of the contract, and a gap as {"gap": ...}."""
    if one.HasField("event"):
        print_json_line(to_dict(one.event))
    elif one.HasField("gap"):
        print_json_line({"gap": to_dict(one.gap)})


def top(
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between refreshes.")
    ] = 1.0,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show live traffic, engines, services and recent events. Ctrl-C ends it.

    Times are in milliseconds: ttft is the time to the first token, gap the time between messages.
    With --json, or where stdout is not a terminal, it prints the state once.
    """
    from rich.console import Console

    from mlxmesh_cli.commands.live_view import MeshState, as_json, watch
    from mlxmesh_cli.screen.top_view import frame

    async def work() -> None:
        async with connect(address, data_dir) as client:
            state = MeshState(client, gateway_address(address, data_dir))
            if json:
                print_json(await as_json(state))
            elif is_terminal():
                await watch(state, Console(), interval_s)
            else:
                await state.read_all()
                print_view(frame(state.screen))

    run(work())


def trace(
    request: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST_ID", help="Request id, or trace id (32 hexadecimal digits)."
        ),
    ],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show the timeline of a recent request: its spans in every process, with durations."""
    response = run(_fetch_trace(request, address, data_dir))
    if json:
        print_json(to_dict(response))
        return
    from mlxmesh_cli.screen.timeline import timeline

    print_view(timeline(response.spans))


async def _fetch_trace(request: str, address: str | None, data_dir: DataDir) -> GetTraceResponse:
    from rich.console import Console

    # The trace may not be complete yet.
    with Console(stderr=True).status("waiting for the complete trace"):
        async with connect(address, data_dir) as client:
            return await complete_trace(client, request)


async def complete_trace(client: MeshClient, request: str) -> GetTraceResponse:
    """The trace of one request, once it is complete. Raises: TraceNotFound."""
    from mlxmesh_shared.errors import TraceNotFound

    until_s = time.monotonic() + TRACE_TIMEOUT_S
    while True:
        try:
            response = await _get_trace(client, request)
            if response.time_since_last_span_ms >= COMPLETE_AFTER_MS or time.monotonic() >= until_s:
                return response
        except TraceNotFound:
            if time.monotonic() >= until_s:
                raise
        await asyncio.sleep(POLL_S)


async def _get_trace(client: MeshClient, request: str) -> GetTraceResponse:
    from mlxmesh_shared.errors import TraceNotFound

    try:
        return await client.trace(request)
    except TraceNotFound:
        if not _TRACE_ID.fullmatch(request):
            raise
        return await client.trace(trace_id=request)
