"""The launcher in the registry, where gateways of its host find it to start what they need."""

from __future__ import annotations

import logging
from dataclasses import replace

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Instance, Registry, local_instance
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.telemetry import new_instance_id

LAUNCHER = "launcher"
_log = logging.getLogger(__name__)


async def announce(registry: Registry, settings: MeshSettings, control: str) -> Instance | None:
    """Registers the address of LauncherService; None where the registry refuses."""
    named = local_instance(settings, LAUNCHER, new_instance_id(LAUNCHER), control)
    # It is reached from this host only, whatever address other services advertise.
    instance = replace(named, address=control)
    try:
        await registry.register(instance)
    except (MeshError, OSError) as error:
        _log.warning("gateways cannot start services that are first used later: %s", error)
        return None
    return instance


async def withdraw(registry: Registry, instance: Instance) -> None:
    """Ends the registration."""
    try:
        await registry.deregister(instance)
    except (MeshError, OSError) as error:
        _log.warning("the launcher stays in the registry until its lease ends: %s", error)
