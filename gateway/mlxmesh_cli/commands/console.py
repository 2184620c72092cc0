"""The command that opens the console in a browser: open."""

from __future__ import annotations

from typing import Annotated

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import DataDir, Json, fail_without_mesh
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_cli.screen.output import print_json, say


def open_console(
    print_only: Annotated[bool, typer.Option("--print", help="Only print the address.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Open the console of the mesh of a data directory in a browser, and print its address."""
    import webbrowser

    from mlxmesh_cli.mesh.console_address import console_address
    from mlxmesh_launcher.record import read_record

    directory = resolve_data_dir(data_dir)
    record = read_record(directory)
    if record is None:
        fail_without_mesh(directory)
    url = console_address(record)
    if url is None:
        fail("the gateway has no HTTP port (yet); set http_listen in mlxmesh.toml, or wait for it")
    if json:
        print_json({"console": url})
    else:
        typer.echo(url)
    if not (print_only or json) and not webbrowser.open(url):
        say("no browser could be started; open the address above", err=True)
