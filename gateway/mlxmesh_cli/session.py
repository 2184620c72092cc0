"""What every command shares: options, how errors reach the reader, and how output is printed.

Nothing heavy is imported at the top: `mlxmesh --help` must not pay for gRPC.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from mlxmesh_client import MeshClient

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

DEFAULT_ADDRESS = "127.0.0.1:50051"


def resolve_data_dir(data_dir: Path | None) -> Path:
    """The data directory to use, made absolute."""
    chosen = data_dir or Path(os.environ.get("MLXMESH_DATA_DIR") or "~/.mlxmesh")
    return chosen.expanduser().resolve()


def gateway_address(address: str | None, data_dir: Path | None) -> str:
    """Where the gateway is: as given, as the launcher wrote, or the default port."""
    from mlxmesh_launcher.record import read_record

    address = address or (os.environ.get("MLXMESH_ADDRESS") if data_dir is None else None)
    if address:
        return address
    record = read_record(resolve_data_dir(data_dir))
    if record is not None and record.gateway:
        return record.gateway
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

    return MeshClient(gateway_address(address, data_dir))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; a MeshError becomes one line and exit code 1."""
    from mlxmesh_shared.errors import MeshError, ServiceUnavailable
    from mlxmesh_shared.settings import SettingsError

    try:
        return asyncio.run(work)
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
