"""Commands about the hosts and processes of the whole mesh: show, settings, logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import Address, DataDir, Json, JsonLines, connect, run
from mlxmesh_cli.screen.output import print_json, print_json_line, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.control.v1.process_pb2 import Setting
    from mlxmesh.telemetry.v1.system_pb2 import GetSystemResponse
    from mlxmesh_client import MeshClient

Level = Literal["", "debug", "info", "warning", "error"]
LEVELS = ("debug", "info", "warning", "error")

system = typer.Typer(help="Hosts, processes, settings and logs.", no_args_is_help=True)

Instance = Annotated[
    str, typer.Argument(metavar="INSTANCE", help="Instance id, or a service with one instance.")
]


@system.command("show", epilog="Example: mlxmesh system show")
def show(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show the hosts and processes of the mesh, with their memory."""

    async def work() -> GetSystemResponse:
        async with connect(address, data_dir) as client:
            return await client.live.system()

    found = run(work())
    if json:
        print_json(to_dict(found))
        return
    from mlxmesh_cli.screen.system_tables import hosts_table, processes_table

    print_view(hosts_table(found.hosts))
    typer.echo()
    print_view(processes_table(found.processes))


@system.command("settings", epilog="Example: mlxmesh system settings gateway")
def settings(
    instance: Instance,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show the settings of one process, with their sources; `mlxmesh config` reads this host's."""

    async def work() -> Sequence[Setting]:
        async with connect(address, data_dir) as client:
            return await client.live.settings(*await _named(client, instance))

    found = run(work())
    if json:
        print_json({"settings": [to_dict(one) for one in found]})
        return
    from mlxmesh_cli.screen.system_tables import settings_table

    print_view(settings_table(found))


def _level(word: str) -> str:
    """Typer callback of --level."""
    if word and word not in LEVELS:
        raise typer.BadParameter(f"must be one of {', '.join(LEVELS)}, not {word}")
    return word


@system.command("logs", epilog="Example: mlxmesh system logs gateway --follow --level warning")
def logs(
    instance: Instance,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=2000, help="How many records to begin with.")
    ] = 50,
    level: Annotated[
        str, typer.Option(help="The lowest level.  [default: all]", callback=_level)
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new records too, until Ctrl-C.")
    ] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: JsonLines = False,
) -> None:
    """Show the last log records of one process, on whichever host; from its memory."""

    async def work() -> None:
        from mlxmesh_cli.screen.system_tables import record_line

        async with connect(address, data_dir) as client:
            named = await _named(client, instance)
            responses = client.live.log(
                *named, tail=lines, min_level=cast("Level", level), follow=follow
            )
            async for response in responses:
                for record in response.records:
                    if json:
                        print_json_line(to_dict(record))
                    else:
                        typer.echo(record_line(record))

    run(work())


async def _named(client: MeshClient, instance: str) -> tuple[str, str]:
    """The service and id of an instance that is named by its id or by its service."""
    status = await client.mesh_status()
    found = [one for one in status if instance in (one.instance_id, one.service)]
    if not found:
        fail(f"there is no process {instance}; `mlxmesh status` lists them")
    if len(found) > 1:
        fail(f"there are {len(found)} of {instance}: {', '.join(one.instance_id for one in found)}")
    return found[0].service, found[0].instance_id
