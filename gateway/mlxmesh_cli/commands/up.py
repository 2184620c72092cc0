"""The command that starts a mesh: up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.host_options import HostOptions
from mlxmesh_cli.commands.session import DataDir, Json, run
from mlxmesh_cli.mesh.console_address import http_url
from mlxmesh_cli.mesh.location import resolve_data_dir, with_data_dir
from mlxmesh_cli.screen.output import is_terminal, print_json
from mlxmesh_cli.screen.status_line import StatusLine

if TYPE_CHECKING:
    from mlxmesh_launcher.mesh import Mesh
    from mlxmesh_launcher.options import MeshOptions
    from mlxmesh_shared.process.forked import ForkedProcess

START_TIMEOUT_S = 1800.0
# One package of each extra that nothing else brings along.
NEEDED = ("uvicorn", "tokenizers", "jinja2", "sqlalchemy", "psutil")
NEEDED_BY_ENGINES = ("mlx", "mlx_lm")
SEVERAL_HOSTS = "Several hosts"

GrpcPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Port of the gateway; 0 uses any free one.  [default: 50051, or the next free one]",
    ),
]
HttpPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="HTTP port of the gateway; 0 uses any free one.  [default: 8051, or the next free"
        " one]",
    ),
]
Replicas = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Replicas of each model.  [default: 1, or as before]"),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        help="A bundled model, a model directory, a GGUF file or a repository id on the hub; may"
        " be repeated.",
    ),
]
Registry = Annotated[
    str | None, typer.Option(help="Service registry: directory or consul.  [default: directory]")
]
ConsulAddress = Annotated[
    str | None,
    typer.Option(help="host:port of this host's Consul agent.  [default: 127.0.0.1:8500]"),
]
Tls = Annotated[
    bool,
    typer.Option("--tls", help="Use mutual TLS, with certificates from the mesh's own authority."),
]
Hosts = Annotated[
    bool,
    typer.Option(
        "--hosts",
        help="Make this host the first one of a mesh that others can join; once is enough.",
        rich_help_panel=SEVERAL_HOSTS,
    ),
]
Join = Annotated[
    str | None,
    typer.Option(
        metavar="HOST[:PORT]",
        help="Join the mesh of this first host; needs --token. Once is enough.",
        rich_help_panel=SEVERAL_HOSTS,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Token that `mlxmesh hosts invite` printed; - reads it from standard input.",
        rich_help_panel=SEVERAL_HOSTS,
    ),
]
Advertise = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="IP address at which other hosts reach this one.  [default: found out]",
        rich_help_panel=SEVERAL_HOSTS,
    ),
]
ConsulProgram = Annotated[
    Path | None,
    typer.Option(
        "--consul",
        metavar="PATH",
        help="Consul's program, whose agent the mesh runs.  [default: CONSUL_BIN, or in PATH, or"
        " what `make consul` built]",
        rich_help_panel=SEVERAL_HOSTS,
    ),
]
JoinPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65534,
        help="With --hosts: port on which hosts join; they renew certificates on the next one."
        "  [default: 50052]",
        rich_help_panel=SEVERAL_HOSTS,
    ),
]
CertificatesFor = Annotated[
    str | None,
    typer.Option(
        help="With --hosts: how long certificates are valid, such as 7d; they renew themselves with"
        " a third of it left.  [default: 90d]",
        rich_help_panel=SEVERAL_HOSTS,
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Run in the background; return once the mesh serves.")
]


@dataclass(frozen=True)
class UpOptions:
    """The mesh to start, as the command line describes it."""

    data_dir: Path
    grpc_port: int | None
    http_port: int | None
    replicas: int | None
    models: tuple[str, ...]
    flags: tuple[str, ...]
    """Settings flags that every service receives."""
    tls: bool

    def launcher_arguments(self) -> list[str]:
        """The command line of a detached launcher, without its data directory."""
        values = {
            "--grpc-port": self.grpc_port,
            "--http-port": self.http_port,
            "--replicas": self.replicas,
        }
        given = [(flag, str(value)) for flag, value in values.items() if value is not None]
        given += [("--model", model) for model in self.models]
        tls = ["--tls"] if self.tls else []
        return [*self.flags, *tls, *(word for pair in given for word in pair)]

    def mesh_options(self, tls_dir: Path | None) -> MeshOptions:
        """The options of a mesh in this process. Raises: InvalidArgument for an unknown model."""
        from mlxmesh_launcher.options import MeshOptions, parse_source

        return MeshOptions(
            data_dir=self.data_dir,
            grpc_port=self.grpc_port,
            http_port=self.http_port,
            replicas=self.replicas,
            models=tuple(parse_source(text) for text in self.models),
            flags=self.flags,
            tls=self.tls,
            tls_dir=tls_dir,
        )


def up(
    data_dir: DataDir = None,
    grpc_port: GrpcPort = None,
    http_port: HttpPort = None,
    replicas: Replicas = None,
    model: Models = None,
    registry: Registry = None,
    consul_address: ConsulAddress = None,
    tls: Tls = False,
    detach: Detach = False,
    hosts: Hosts = False,
    join: Join = None,
    token: Token = None,
    advertise: Advertise = None,
    consul: ConsulProgram = None,
    join_port: JoinPort = None,
    certificates_for: CertificatesFor = None,
    json: Json = False,
) -> None:
    """Start a whole mesh on this host. Ctrl-C stops it.

    Without --model it loads the models that were loaded before; a new data directory starts with
    the bundled model `pocket`.

    Several hosts: `mlxmesh up --hosts` on the first one, then `mlxmesh hosts invite`, which prints
    the command for another host. Later starts of both need no options.
    """
    require_packages()
    directory = resolve_data_dir(data_dir)
    wanted = HostOptions(
        hosts, join, token, advertise, consul, consul_address, join_port, certificates_for
    )
    in_mesh = wanted.prepare(directory, registry=registry, tls=tls, json=json)
    options = UpOptions(
        data_dir=directory,
        grpc_port=grpc_port,
        http_port=http_port,
        replicas=replicas,
        models=tuple(model or ()),
        flags=() if in_mesh else _registry_flags(registry, consul_address),
        tls=tls,
    )
    if detach:
        _up_detached(options, json=json)
        return
    from mlxmesh_launcher.forked import fork_services
    from mlxmesh_launcher.hosts.state import services_here

    # Joining used gRPC and threads, after which this process must not be forked.
    forked = {} if join else fork_services(services_here(directory))
    run(_up_foreground(options, forked, json=json))


def require_packages() -> None:
    """Exits where a package that a whole mesh needs is missing."""
    if missing := missing_packages():
        fail(
            f'a whole mesh needs `pip install "mlxmesh[all]"`; missing here: {", ".join(missing)}',
            reason="NOT_INSTALLED",
        )


def missing_packages() -> list[str]:
    """Packages that `mlxmesh up` needs and that are missing; simulated engines need no MLX."""
    is_simulated = os.environ.get("MLXMESH_ENGINE_BACKEND") == "simulated"
    needed = NEEDED if is_simulated else NEEDED + NEEDED_BY_ENGINES
    return [name for name in needed if find_spec(name) is None]


def _up_detached(options: UpOptions, *, json: bool) -> None:
    from rich.console import Console

    from mlxmesh_launcher.detach import start_detached

    directory, arguments = options.data_dir, options.launcher_arguments()
    with Console(stderr=True).status("starting") as status:
        record = run(start_detached(directory, arguments, status.update, timeout_s=START_TIMEOUT_S))
    if json:
        _print_addresses(record.gateway, record.http, record.pid, directory)
        return
    for note in record.notes:
        typer.echo(note)
    status_command, down_command = (with_data_dir(name, directory) for name in ("status", "down"))
    serving = _serving_words(record.gateway) + _http_words(record.http, tls=bool(record.tls_dir))
    typer.echo(f"{serving}; `{status_command}` shows it, `{down_command}` stops it")


def _print_addresses(gateway: str, http: str, pid: int, directory: Path) -> None:
    print_json({"address": gateway, "http": http, "pid": pid, "data_dir": str(directory)})


def _serving_words(gateway: str) -> str:
    """Where the mesh serves; a host that joined need not run a gateway."""
    return f"serving on {gateway}" if gateway else "serving, without a gateway on this host"


def _http_words(http: str, *, tls: bool) -> str:
    """Where the HTTP APIs and the console are."""
    return f", HTTP and console on {http_url(http, tls=tls)}" if http else ""


def _registry_flags(registry: str | None, consul_address: str | None) -> tuple[str, ...]:
    """Settings flags for the options that were given."""
    chosen = {"--registry": registry, "--consul-address": consul_address}
    return tuple(word for flag, value in chosen.items() if value for word in (flag, value))


async def _up_foreground(
    options: UpOptions, forked: Mapping[str, ForkedProcess], *, json: bool
) -> None:
    from mlxmesh_launcher.mesh import Mesh, open_mesh_registry, start_unless_stopped
    from mlxmesh_shared.process.startup import wait_for_stop
    from mlxmesh_shared.settings import MeshSettings, load_settings

    flags = ["--data-dir", str(options.data_dir), *options.flags]
    settings = load_settings(MeshSettings, flags)
    mesh_options = options.mesh_options(settings.tls_dir)
    registry = open_mesh_registry(settings)
    mesh = Mesh(mesh_options, registry, forked)
    stop = asyncio.create_task(wait_for_stop(mesh.leaving))
    try:
        with StatusLine(err=json) as status:
            is_serving = await start_unless_stopped(mesh, stop, status.update)
        if is_serving and json:
            _print_addresses(mesh.gateway, mesh.http, os.getpid(), options.data_dir)
            await stop
        elif is_serving:
            await _live_view(options.data_dir, mesh, stop)
    finally:
        stop.cancel()
        with StatusLine(err=json) as status:
            status.update("stopping; running generations may finish")
            await mesh.stop(status.update)
        await registry.close()


async def _live_view(data_dir: Path, mesh: Mesh, stop: asyncio.Task[None]) -> None:
    """Shows the mesh until it should stop; prints plain lines where stdout is not a terminal."""
    for note in mesh.notes:
        typer.echo(note)
    typer.echo(
        f"{_serving_words(mesh.gateway)}{_http_words(mesh.http, tls=mesh.tls is not None)};"
        f" try `{with_data_dir('chat', data_dir)}` in another terminal; Ctrl-C stops"
    )
    if not is_terminal():
        await stop
        return
    # Not before the mesh serves: they are slow to import.
    from rich.console import Console
    from rich.live import Live

    from mlxmesh_cli.commands.overview import overview
    from mlxmesh_cli.screen.tables import overview_view

    with Live(console=Console(), refresh_per_second=2) as live:
        while not stop.done():
            live.update(overview_view(await overview(data_dir, mesh.tls)))
            await asyncio.wait((stop,), timeout=1.0)
