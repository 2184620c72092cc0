"""The gateway of a mesh whose services were started one by one, as its registry knows it."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def registered_gateway(data_dir: Path) -> str | None:
    """host:port of a gateway, this host's by preference; None where none is registered.

    Raises: RegistryUnavailable, SettingsError.
    """
    # On a thread, because commands ask from within their event loop as well.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _find(data_dir)).result()


async def _find(data_dir: Path) -> str | None:
    from mlxmesh_shared.registry import open_registry
    from mlxmesh_shared.settings import MeshSettings, load_settings

    registry = open_registry(load_settings(MeshSettings, ["--data-dir", str(data_dir)]))
    try:
        gateways = await registry.resolve("gateway")
    finally:
        await registry.close()
    here = socket.gethostname()
    nearest = sorted(gateways, key=lambda one: one.metadata.get("host") != here)
    return nearest[0].address if nearest else None
