"""Options that all commands share, and connecting to a mesh.

Nothing heavy is imported at the top: `mlxmesh --help` must not pay for gRPC.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from mlxmesh_cli.commands.failures import NO_MESH, fail, remember_json, reported_errors
from mlxmesh_cli.mesh.location import (
    given_data_dir,
    registered_gateway,
    resolve_data_dir,
    with_data_dir,
)

if TYPE_CHECKING:
    from mlxmesh_cli.mesh.credentials import CredentialFile
    from mlxmesh_client import MeshClient
    from mlxmesh_shared.tls import CertificateFiles

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Data directory of the mesh.  [default: MLXMESH_DATA_DIR or ~/.mlxmesh]"
    ),
]


def _host_and_port(address: str | None) -> str | None:
    """Typer callback of --address: checks its form."""
    host, _, port = (address or "").rpartition(":")
    if address is not None and not (host and port.isdecimal() and "/" not in host):
        raise typer.BadParameter(
            "must be host:port of a gateway's gRPC port, for example 127.0.0.1:50051"
        )
    return address


Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="host:port of a gateway.  [default: MLXMESH_ADDRESS, or the data directory's gateway]",
        callback=_host_and_port,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON, errors included.", callback=remember_json),
]
JsonLines = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object per line.", callback=remember_json),
]

T = TypeVar("T")

TLS_VARIABLES = ("MLXMESH_CA", "MLXMESH_CERT", "MLXMESH_KEY")
API_KEY_VARIABLE, INSECURE_KEY_VARIABLE = "MLXMESH_API_KEY", "MLXMESH_INSECURE_KEY"
DEFAULT_ADDRESS = "127.0.0.1:50051"


def given_address(address: str | None, data_dir: Path | None) -> str | None:
    """The address that --address or, without a data directory, MLXMESH_ADDRESS names."""
    return address or (os.environ.get("MLXMESH_ADDRESS") if data_dir is None else None) or None


def gateway_address(address: str | None, data_dir: Path | None) -> str:
    """The gateway's address: as given, from the launcher's record or registry, or the default.

    There is no default for a data directory that --data-dir or MLXMESH_DATA_DIR names.
    """
    if (given := given_address(address, data_dir)) is not None:
        return given
    directory = resolve_data_dir(data_dir)
    if (own := _own_gateway(directory)) is not None:
        return own
    if given_data_dir(data_dir) is not None:
        fail_without_mesh(directory)
    return DEFAULT_ADDRESS


def _own_gateway(data_dir: Path) -> str | None:
    """The gateway of the mesh that runs in a data directory; None without one."""
    from mlxmesh_launcher.record import read_record

    record = read_record(data_dir)
    if record is not None and record.gateway:
        return record.gateway
    with reported_errors():
        return registered_gateway(data_dir)


def fail_without_mesh(data_dir: Path) -> NoReturn:
    """Ends the command: no mesh runs in the data directory."""
    message = f"no mesh runs in {data_dir}; start one with `{with_data_dir('up', data_dir)}`"
    fail(message, exit_code=NO_MESH, reason="NO_MESH")


@asynccontextmanager
async def connect(address: str | None, data_dir: Path | None) -> AsyncGenerator[MeshClient]:
    """A client of the mesh that the options name; calls may raise GatewayUnreachable."""
    from mlxmesh_cli.mesh.reaching import gateway_errors
    from mlxmesh_cli.mesh.sign_in import signed_in_client

    gateway = gateway_address(address, data_dir)
    tls = tls_of(resolve_data_dir(data_dir), gateway)
    async with (
        gateway_errors(gateway, tls),
        signed_in_client(gateway, tls, credential_file(address, data_dir)) as client,
    ):
        yield client


def credential_file(address: str | None, data_dir: Path | None) -> CredentialFile:
    """Where the credential for the mesh that the options name is stored.

    That of a data directory is for its own gateway, not for whatever listens on the default port.
    """
    from mlxmesh_cli.mesh.credentials import CredentialFile

    directory = resolve_data_dir(data_dir)
    given = given_address(address, data_dir)
    if given is None and _own_gateway(directory) is not None:
        return CredentialFile.of_data_dir(directory)
    return CredentialFile.of_address(given or gateway_address(address, data_dir))


def tls_of(data_dir: Path, gateway: str | None = None) -> CertificateFiles | None:
    """The client's certificates: as given, from the launcher's record, or from the settings.

    Whoever can read a data directory is an admin of its mesh.
    """
    from mlxmesh_launcher.record import read_record
    from mlxmesh_shared.settings import MeshSettings, load_settings
    from mlxmesh_shared.tls import CertificateFiles

    ca, certificate, key = (os.environ.get(name) for name in TLS_VARIABLES)
    if ca and bool(certificate) == bool(key):
        pair = (Path(certificate), Path(key)) if certificate and key else (None, None)
        return CertificateFiles(Path(ca), *pair)
    if ca:
        fail("--cert and --key must be given together")
    if certificate or key:
        fail("--cert and --key need --ca, the authority that issued the gateway's certificate")
    record = read_record(data_dir)
    if record is not None and gateway in (None, record.gateway):
        tls_dir = Path(record.tls_dir) if record.tls_dir else None
    else:
        tls_dir = load_settings(MeshSettings, ["--data-dir", str(data_dir)]).tls_dir
    return CertificateFiles.of_role(tls_dir, "admin") if tls_dir is not None else None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine; a MeshError becomes one line and exit code 1."""
    with reported_errors():
        return _run(work)


def ask(
    call: Callable[[MeshClient], Awaitable[T]], address: str | None, data_dir: Path | None
) -> T:
    """What one call of the mesh returns; errors as of run()."""

    async def work() -> T:
        async with connect(address, data_dir) as client:
            return await call(client)

    return run(work())


def _run(work: Coroutine[Any, Any, T]) -> T:
    from mlxmesh_shared.process.interrupt import (
        block_interrupts,
        exit_on_interrupt,
        raise_on_interrupt,
        unblock_interrupts,
    )

    async def interruptible() -> T:
        unblock_interrupts()
        return await work

    # Ctrl-C waits until the work has begun, and then cancels it.
    block_interrupts()
    raise_on_interrupt()
    try:
        return asyncio.run(interruptible())
    finally:
        exit_on_interrupt()
        unblock_interrupts()
