"""Where a mesh runs: its data directory, and the addresses in its registry.

Nothing heavy is imported at the top: `mlxmesh --help` must not pay for gRPC.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxmesh_shared.registry import Instance

SERVICES = (
    "gateway",
    "generation",
    "model",
    "access",
    "jobs",
    "worker",
    "tools",
    "runtime",
    "engine",
)


def given_data_dir(data_dir: Path | None) -> Path | None:
    """The data directory that --data-dir or MLXMESH_DATA_DIR names."""
    named = os.environ.get("MLXMESH_DATA_DIR")
    return data_dir or (Path(named) if named else None)


def resolve_data_dir(data_dir: Path | None) -> Path:
    """The absolute path of the data directory to use."""
    chosen = given_data_dir(data_dir) or Path("~/.mlxmesh")
    return chosen.expanduser().resolve()


def with_data_dir(command: str, data_dir: Path) -> str:
    """`mlxmesh COMMAND` with --data-dir where the directory is not the default."""
    is_default = data_dir == resolve_data_dir(None)
    return f"mlxmesh {command}" if is_default else f"mlxmesh {command} --data-dir {data_dir}"


def settings_flags(data_dir: Path | None) -> list[str]:
    """Settings flags that give this process the same settings as the services of the mesh."""
    from mlxmesh_launcher.record import read_record

    given = ["--data-dir", str(resolve_data_dir(data_dir))] if data_dir else []
    record = read_record(resolve_data_dir(data_dir))
    return [*given, *(record.flags if record else ())]


def registered_gateway(data_dir: Path) -> str | None:
    """host:port of a registered gateway, preferably on this host; None without one.

    Raises: RegistryUnavailable, SettingsError.
    """
    here = socket.gethostname()
    gateways = _resolve(data_dir, ("gateway",))
    nearest = sorted(gateways, key=lambda one: one.metadata.get("host") != here)
    return nearest[0].address if nearest else None


def registered_addresses(data_dir: Path) -> list[str]:
    """host:port of every service, engine and HTTP server of the mesh on this host.

    Raises: RegistryUnavailable, SettingsError.
    """
    here = socket.gethostname()
    found = [one for one in _resolve(data_dir, SERVICES) if one.metadata.get("host") == here]
    return [address for one in found for address in (one.address, one.metadata.get("http", ""))]


def _resolve(data_dir: Path, services: Sequence[str]) -> list[Instance]:
    # On a thread, because callers may be inside an event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _find(data_dir, services)).result()


async def _find(data_dir: Path, services: Sequence[str]) -> list[Instance]:
    from mlxmesh_shared.registry import open_registry
    from mlxmesh_shared.settings import MeshSettings, load_settings

    registry = open_registry(load_settings(MeshSettings, ["--data-dir", str(data_dir)]))
    try:
        return [one for service in services for one in await registry.resolve(service)]
    finally:
        await registry.close()
