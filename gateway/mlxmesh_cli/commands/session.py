"""What every command shares: its options, and how it finds and reaches its mesh.

Nothing heavy is imported at the top: `mlxmesh --help` must not pay for gRPC.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from mlxmesh_cli.commands.failures import NO_MESH, fail, remember_json, reported_errors
from mlxmesh_cli.mesh.location import registered_gateway, resolve_data_dir, with_data_dir

if TYPE_CHECKING:
    from mlxmesh_client import MeshClient
    from mlxmesh_shared.tls import CertificateFiles

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="The mesh's directory. Default: MLXMESH_DATA_DIR or ~/.mlxmesh."
    ),
]


def _host_and_port(address: str | None) -> str | None:
    """Called with the value of --address."""
    host, _, port = (address or "").rpartition(":")
    if address is not None and not (host and port.isdecimal()):
        raise typer.BadParameter("must be host:port, for example 127.0.0.1:50051")
    return address


Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="host:port of a gateway. Default: MLXMESH_ADDRESS, or that of the data directory.",
        callback=_host_and_port,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON for scripts, errors too.", callback=remember_json),
]
JsonLines = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object per line.", callback=remember_json),
]

T = TypeVar("T")

TLS_VARIABLES = ("MLXMESH_CA", "MLXMESH_CERT", "MLXMESH_KEY")
DEFAULT_ADDRESS = "127.0.0.1:50051"


def given_address(address: str | None, data_dir: Path | None) -> str | None:
    """The address that --address or, without a data directory, MLXMESH_ADDRESS names."""
    return address or (os.environ.get("MLXMESH_ADDRESS") if data_dir is None else None) or None


def gateway_address(address: str | None, data_dir: Path | None) -> str:
    """Where the gateway is: as given, as launcher or registry know it, or the default port."""
    from mlxmesh_launcher.record import read_record

    if (given := given_address(address, data_dir)) is not None:
        return given
    record = read_record(resolve_data_dir(data_dir))
    if record is not None and record.gateway:
        return record.gateway
    with reported_errors():
        registered = registered_gateway(resolve_data_dir(data_dir))
    if registered is not None:
        return registered
    if data_dir is not None:
        fail_without_mesh(data_dir)
    return DEFAULT_ADDRESS


def fail_without_mesh(data_dir: Path) -> NoReturn:
    """Ends the command because no mesh runs in its data directory."""
    message = f"no mesh runs in {data_dir}; start one with `{with_data_dir('up', data_dir)}`"
    fail(message, exit_code=NO_MESH, reason="NO_MESH")


@asynccontextmanager
async def connect(address: str | None, data_dir: Path | None) -> AsyncGenerator[MeshClient]:
    """A client of the mesh that the options name. Raises: GatewayUnreachable, within."""
    from mlxmesh_cli.mesh.reaching import gateway_errors
    from mlxmesh_client import MeshClient

    gateway = gateway_address(address, data_dir)
    tls = tls_of(resolve_data_dir(data_dir), gateway)
    async with gateway_errors(gateway, tls), MeshClient(gateway, tls=tls) as client:
        yield client


def tls_of(data_dir: Path, gateway: str | None = None) -> CertificateFiles | None:
    """The certificates to connect with: as given, as the launcher of this gateway wrote, or as set.

    The owner of a data directory is its mesh's admin.
    """
    from mlxmesh_launcher.record import read_record
    from mlxmesh_shared.settings import MeshSettings, load_settings
    from mlxmesh_shared.tls import CertificateFiles

    ca, certificate, key = (os.environ.get(name) for name in TLS_VARIABLES)
    if ca and bool(certificate) == bool(key):
        pair = (Path(certificate), Path(key)) if certificate and key else (None, None)
        return CertificateFiles(Path(ca), *pair)
    if ca:
        fail("--cert and --key need each other")
    if certificate or key:
        fail("--cert and --key need --ca, the authority that the gateway's certificate is of")
    record = read_record(data_dir)
    if record is not None and gateway in (None, record.gateway):
        tls_dir = Path(record.tls_dir) if record.tls_dir else None
    else:
        tls_dir = load_settings(MeshSettings, ["--data-dir", str(data_dir)]).tls_dir
    return CertificateFiles.of_role(tls_dir, "admin") if tls_dir is not None else None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; a MeshError becomes one line and exit code 1."""
    with reported_errors():
        return _run(work)


def _run(work: Coroutine[Any, Any, T]) -> T:
    from mlxmesh_shared.process.interrupt import (
        end_at_interrupt,
        hold_interrupts,
        raise_at_interrupt,
        release_interrupts,
    )

    async def interruptible() -> T:
        release_interrupts()
        return await work

    # From the first step of the work on, Ctrl-C cancels it; until then it waits.
    hold_interrupts()
    raise_at_interrupt()
    try:
        return asyncio.run(interruptible())
    finally:
        end_at_interrupt()
        release_interrupts()
