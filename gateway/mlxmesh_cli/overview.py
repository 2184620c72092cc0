"""What runs in a data directory: every registered instance, probed, and the models."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mlxmesh_cli.session import settings_flags, to_dict
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.health import health
from mlxmesh_shared.registry import Instance, Registry, open_registry
from mlxmesh_shared.settings import MeshSettings, load_settings
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

SERVICES = ("gateway", "generation", "model", "runtime", "engine")


async def overview(data_dir: Path, tls: CertificateFiles | None = None) -> dict[str, Any]:
    """`{"instances": [...], "models": [...]}`, as `mlxmesh status --json` prints it."""
    certificates = CertificateSource(tls) if tls is not None else None
    registry = open_registry(load_settings(MeshSettings, settings_flags(data_dir)), certificates)
    try:
        instances = await _instances(registry)
    finally:
        await registry.close()
    states = await asyncio.gather(
        *(
            health(instance.address, role=instance.service, certificates=certificates)
            for instance in instances
        )
    )
    rows = [_row(instance, state) for instance, state in zip(instances, states, strict=True)]
    gateways = [row["address"] for row in rows if row["service"] == "gateway"]
    return {"instances": rows, "models": await _models(gateways, tls)}


async def _instances(registry: Registry) -> list[Instance]:
    return [instance for name in SERVICES for instance in await registry.resolve(name)]


def _row(instance: Instance, state: str) -> dict[str, Any]:
    return {
        **instance.metadata,
        "service": instance.service,
        "instance_id": instance.instance_id,
        "address": instance.address,
        "pid": instance.pid,
        "state": state,
    }


async def _models(gateways: list[str], tls: CertificateFiles | None) -> list[dict[str, Any]]:
    for address in gateways:
        try:
            async with MeshClient(address, tls=tls) as client:
                return [to_dict(model) for model in await client.list_models()]
        except MeshError:
            continue
    return []
