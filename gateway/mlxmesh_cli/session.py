"""What every command shares: options, how errors reach the reader, and how output is printed.

Nothing heavy is imported at the top: `mlxmesh --help` must not pay for gRPC.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from mlxmesh_client import MeshClient
    from mlxmesh_shared.tls import CertificateFiles

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="The mesh's directory. Default: MLXMESH_DATA_DIR or ~/.mlxmesh."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="host:port of a gateway. Default: MLXMESH_ADDRESS, or that of the data directory.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

T = TypeVar("T")

TLS_VARIABLES = ("MLXMESH_CA", "MLXMESH_CERT", "MLXMESH_KEY")
DEFAULT_ADDRESS = "127.0.0.1:50051"


def resolve_data_dir(data_dir: Path | None) -> Path:
    """The data directory to use, made absolute."""
    chosen = data_dir or Path(os.environ.get("MLXMESH_DATA_DIR") or "~/.mlxmesh")
    return chosen.expanduser().resolve()


def gateway_address(address: str | None, data_dir: Path | None) -> str:
    """Where the gateway is: as given, as launcher or registry know it, or the default port."""
    from mlxmesh_cli.registered import registered_gateway
    from mlxmesh_launcher.record import read_record

    address = address or (os.environ.get("MLXMESH_ADDRESS") if data_dir is None else None)
    if address:
        return address
    record = read_record(resolve_data_dir(data_dir))
    if record is not None and record.gateway:
        return record.gateway
    with told_errors():
        registered = registered_gateway(resolve_data_dir(data_dir))
    if registered is not None:
        return registered
    if data_dir is not None:
        fail(f"no mesh runs in {data_dir}; start one with `mlxmesh up --data-dir {data_dir}`")
    return DEFAULT_ADDRESS


def settings_flags(data_dir: Path | None) -> list[str]:
    """The flags that make this process see its mesh as the services do that run there."""
    from mlxmesh_launcher.record import read_record

    given = ["--data-dir", str(resolve_data_dir(data_dir))] if data_dir else []
    record = read_record(resolve_data_dir(data_dir))
    return [*given, *(record.flags if record else ())]


def connect(address: str | None, data_dir: Path | None) -> AbstractAsyncContextManager[MeshClient]:
    """A client of the mesh that the options name."""
    from mlxmesh_client import MeshClient

    gateway = gateway_address(address, data_dir)
    return MeshClient(gateway, tls=tls_of(resolve_data_dir(data_dir), gateway))


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
    with told_errors():
        return asyncio.run(work)


@contextmanager
def told_errors() -> Generator[None]:
    """Ends the command with one line and exit code 1 at an error that its reader can mend."""
    from mlxmesh_shared.errors import MeshError, ServiceUnavailable
    from mlxmesh_shared.settings import SettingsError

    try:
        yield
    except ServiceUnavailable as error:
        fail(f"{error}; is the mesh up? `mlxmesh status` tells, `mlxmesh up` starts it")
    except MeshError as error:
        fail(f"{error.field}: {error}" if error.field else str(error))
    except SettingsError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(message: str) -> NoReturn:
    """End the command with one line on standard error."""
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(1)


def print_json(value: object) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def to_dict(message: Any) -> dict[str, Any]:
    """A protobuf message as JSON-ready data with the field names of the contract."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
