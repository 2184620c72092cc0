"""Commands that run a mesh: down, status, logs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxmesh_cli.commands.failures import INTERRUPTED, fail
from mlxmesh_cli.commands.session import (
    Address,
    DataDir,
    Json,
    JsonLines,
    connect,
    fail_without_mesh,
    given_address,
    run,
    tls_of,
)
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_cli.screen.logs import FollowedLog, last_lines, readable
from mlxmesh_cli.screen.output import is_terminal, print_json, print_json_line, print_view

FOLLOW_POLL_S = 0.2


def down(data_dir: DataDir = None, json: Json = False) -> None:
    """Stop the mesh of a data directory; running generations may finish first."""
    from mlxmesh_launcher.detach import stop_detached

    directory = resolve_data_dir(data_dir)
    stopped = run(stop_detached(directory))
    if not stopped:
        fail_without_mesh(directory)
    if json:
        print_json({"stopped": True, "data_dir": str(directory)})
    else:
        typer.echo("stopped")


def status(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show every instance with its state, calls and circuit breaker, and every model.

    With --address, the state of a mesh as its gateway reports it, without process ids.
    """
    state = run(_overview(address, data_dir))
    if not state["instances"]:
        fail_without_mesh(resolve_data_dir(data_dir))
    if json:
        print_json(state)
        return
    from mlxmesh_cli.screen.tables import overview_view

    print_view(overview_view(state))


async def _overview(address: str | None, data_dir: Path | None) -> dict[str, Any]:
    from mlxmesh_cli.commands.overview import gateway_overview, overview

    if (gateway := given_address(address, data_dir)) is not None:
        async with connect(gateway, data_dir) as client:
            return await gateway_overview(client)
    directory = resolve_data_dir(data_dir)
    return await overview(directory, tls_of(directory))


def logs(
    component: Annotated[
        str | None,
        typer.Argument(
            help="launcher, runtime, model, generation, access, jobs, worker, tools, gateway or an"
            " engine"
            " id.  [default: all]"
        ),
    ] = None,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Number of lines of each log.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines too, until Ctrl-C.")
    ] = False,
    data_dir: DataDir = None,
    json: JsonLines = False,
) -> None:
    """Show the end of the logs of services and engines.

    A terminal shows each record as text; a pipe receives the lines as they were written.
    """
    directory = resolve_data_dir(data_dir) / "logs"
    paths = sorted(directory.glob("*.log"))
    if not paths:
        fail(f"no logs in {directory}; start a mesh with `mlxmesh up`")
    if component is not None:
        known = ", ".join(path.stem for path in paths) or "none"
        paths = [path for path in paths if path.stem == component]
        if not paths:
            fail(f"no log of {component!r} in {directory}; available: {known}")
    for path in paths:
        for line in last_lines(path, lines):
            _print_line(path.stem, line, json)
    if follow:
        _follow(paths, json)


def _print_line(component: str, line: str, json: bool) -> None:
    if json:
        print_json_line({"component": component, "line": line})
    else:
        typer.echo(f"{component}: {readable(line) if is_terminal() else line}")


def _follow(paths: list[Path], json: bool) -> None:
    from mlxmesh_shared.process.interrupt import raise_on_interrupt

    logs = [FollowedLog(path) for path in paths]
    try:
        raise_on_interrupt()
        while True:
            for log in logs:
                for line in log.new_lines():
                    _print_line(log.path.stem, line, json)
            time.sleep(FOLLOW_POLL_S)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
