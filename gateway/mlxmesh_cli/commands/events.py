"""The command that shows what happens in the mesh: events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.mesh.failures import remember_json
from mlxmesh_cli.mesh.session import Address, DataDir, connect, run
from mlxmesh_cli.screen.output import console, print_json_line, say, to_dict

if TYPE_CHECKING:
    from mlxmesh.telemetry.v1.events_pb2 import WatchEventsResponse
    from mlxmesh_client import MeshClient
    from mlxmesh_shared.errors import MeshError


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
    json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object a line.", callback=remember_json),
    ] = False,
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
