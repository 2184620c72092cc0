"""Commands that run a mesh: up, down, status, logs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.extras import missing_packages
from mlxmesh_cli.mesh.failures import INTERRUPTED, remember_json
from mlxmesh_cli.mesh.session import (
    DataDir,
    Json,
    fail,
    fail_without_mesh,
    print_json,
    resolve_data_dir,
    run,
    tls_of,
    with_data_dir,
)
from mlxmesh_cli.screen.followed_log import FollowedLog, last_lines
from mlxmesh_cli.screen.log_lines import readable
from mlxmesh_cli.screen.output import is_watched, print_json_line, print_view

if TYPE_CHECKING:
    from mlxmesh_launcher.mesh import Mesh
    from mlxmesh_shared.process.forked import ForkedProcess

START_TIMEOUT_S = 1800.0
FOLLOW_POLL_S = 0.2


def up(
    data_dir: DataDir = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the gateway; 0 takes a free one.  [default: 50051, or the next free one]",
        ),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of its HTTP; 0 takes a free one.  [default: 8051, or the next free one]",
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Replicas of each model.  [default: 1, or as before]"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A bundled model, a directory, a GGUF file or a hub id; may be repeated."
        ),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="How instances find each other: directory (the default) or consul."),
    ] = None,
    consul_address: Annotated[
        str | None,
        typer.Option(help="host:port of this host's Consul agent. Default: 127.0.0.1:8500."),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Encrypt and authenticate, with certificates made here.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the mesh serves.")] = False,
    json: Json = False,
) -> None:
    """Start the whole mesh on this host. Ctrl-C stops it.

    Without --model it serves what it served before, and in a fresh directory the bundled `pocket`.
    """
    if missing := missing_packages():
        fail(
            f'a whole mesh needs `pip install "mlxmesh[all]"`; missing here: {", ".join(missing)}',
            reason="NOT_INSTALLED",
        )
    directory = resolve_data_dir(data_dir)
    models = model or []
    flags = _registry_flags(registry, consul_address)
    if not detach:
        from mlxmesh_launcher.forked import fork_services

        forked = fork_services()
        ports = (grpc_port, http_port)
        run(_up_foreground(directory, ports, replicas, models, flags, tls, forked, json=json))
        return
    arguments = [*flags, *(["--tls"] if tls else [])]
    arguments += ["--grpc-port", str(grpc_port)] if grpc_port is not None else []
    arguments += ["--http-port", str(http_port)] if http_port is not None else []
    arguments += ["--replicas", str(replicas)] if replicas is not None else []
    for name in models:
        arguments += ["--model", name]
    _up_detached(directory, arguments, json)


def down(data_dir: DataDir = None, json: Json = False) -> None:
    """Stop the mesh of a data directory; running answers may finish first."""
    from mlxmesh_launcher.detach import stop_detached

    directory = resolve_data_dir(data_dir)
    stopped = run(stop_detached(directory))
    if not stopped:
        fail_without_mesh(directory)
    if json:
        print_json({"stopped": True, "data_dir": str(directory)})
    else:
        typer.echo("stopped")


def status(data_dir: DataDir = None, json: Json = False) -> None:
    """Show what runs: every instance with state, calls and circuit breaker, and the models."""
    from mlxmesh_cli.mesh.overview import overview

    directory = resolve_data_dir(data_dir)
    state = run(overview(directory, tls_of(directory)))
    if not state["instances"]:
        fail_without_mesh(directory)
    if json:
        print_json(state)
        return
    from mlxmesh_cli.screen.tables import overview_view

    print_view(overview_view(state))


def logs(
    component: Annotated[
        str | None, typer.Argument(help="launcher, gateway, model, ... or an engine's id.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    data_dir: DataDir = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object a line.", callback=remember_json),
    ] = False,
) -> None:
    """Show the end of the services' and engines' logs.

    A terminal gets each record as text; a pipe gets the lines as they were written.
    """
    directory = resolve_data_dir(data_dir) / "logs"
    paths = sorted(directory.glob("*.log"))
    if not paths:
        fail(f"no logs in {directory}; `mlxmesh up` starts a mesh, which writes them")
    if component is not None:
        known = ", ".join(path.stem for path in paths) or "none"
        paths = [path for path in paths if path.stem == component]
        if not paths:
            fail(f"no log of {component!r} in {directory}; there are: {known}")
    for path in paths:
        for line in last_lines(path, lines):
            _print_line(path.stem, line, json)
    if follow:
        _follow(paths, json)


def _up_detached(directory: Path, arguments: list[str], json: bool) -> None:
    from rich.console import Console

    from mlxmesh_launcher.detach import start_detached

    with Console(stderr=True).status("starting") as status:
        record = run(start_detached(directory, arguments, status.update, timeout_s=START_TIMEOUT_S))
    if json:
        _print_reached(record.gateway, record.http, record.pid, directory)
        return
    for note in record.notes:
        typer.echo(note)
    status_command, down_command = (with_data_dir(name, directory) for name in ("status", "down"))
    typer.echo(
        f"serving on {record.gateway}{_http_words(record.http)}; `{status_command}` shows it,"
        f" `{down_command}` stops it"
    )


def _print_reached(gateway: str, http: str, pid: int, directory: Path) -> None:
    print_json({"address": gateway, "http": http, "pid": pid, "data_dir": str(directory)})


def _http_words(http: str) -> str:
    return f", HTTP on {http}" if http else ""


def _registry_flags(registry: str | None, consul_address: str | None) -> tuple[str, ...]:
    """The settings' flags for what was chosen; what was not is left to the other layers."""
    chosen = {"--registry": registry, "--consul-address": consul_address}
    return tuple(word for flag, value in chosen.items() if value for word in (flag, value))


async def _up_foreground(
    data_dir: Path,
    ports: tuple[int | None, int | None],
    replicas: int | None,
    models: list[str],
    flags: tuple[str, ...],
    tls: bool,
    forked: Mapping[str, ForkedProcess],
    *,
    json: bool,
) -> None:
    from rich.console import Console

    from mlxmesh_launcher.mesh import Mesh, start_unless_stopped
    from mlxmesh_launcher.options import MeshOptions, parse_source
    from mlxmesh_shared.process.startup import wait_for_stop
    from mlxmesh_shared.registry import open_registry
    from mlxmesh_shared.settings import MeshSettings, load_settings

    sources = tuple(parse_source(text) for text in models)
    settings = load_settings(MeshSettings, ["--data-dir", str(data_dir), *flags])
    registry = open_registry(settings)
    options = MeshOptions(data_dir, *ports, replicas, sources, flags, tls, settings.tls_dir)
    mesh = Mesh(options, registry, forked)
    console = Console(stderr=json)
    stop = asyncio.create_task(wait_for_stop(mesh.leaving))
    try:
        with console.status("starting") as status:
            serves = await start_unless_stopped(mesh, stop, status.update)
        if serves and json:
            _print_reached(mesh.gateway, mesh.http, os.getpid(), data_dir)
            await stop
        elif serves:
            await _live_view(console, data_dir, mesh, stop)
    finally:
        stop.cancel()
        with console.status("stopping; running answers may finish") as status:
            await mesh.stop(status.update)
        await registry.close()


async def _live_view(console: Any, data_dir: Path, mesh: Mesh, stop: asyncio.Task[None]) -> None:
    """Show the mesh until it should stop; plain lines when nobody watches a screen."""
    from rich.live import Live

    from mlxmesh_cli.mesh.overview import overview
    from mlxmesh_cli.screen.tables import overview_view

    for note in mesh.notes:
        console.print(note, soft_wrap=True)
    console.print(
        f"serving on {mesh.gateway}{_http_words(mesh.http)};"
        f" try `{with_data_dir('chat', data_dir)}` in another terminal; Ctrl-C stops",
        soft_wrap=True,
    )
    if not is_watched():
        await stop
        return
    with Live(console=console, refresh_per_second=2) as live:
        while not stop.done():
            live.update(overview_view(await overview(data_dir, mesh.tls)))
            await asyncio.wait((stop,), timeout=1.0)


def _print_line(component: str, line: str, json: bool) -> None:
    if json:
        print_json_line({"component": component, "line": line})
    else:
        typer.echo(f"{component}: {readable(line) if is_watched() else line}")


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
