"""Following the instances of a service for good."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from mlxmesh_shared.registry.port import Instance, Registry

AGAIN_S = 1.0

_log = logging.getLogger(__name__)

Told = Callable[[Sequence[Instance]], Awaitable[None]]
"""Takes the instances as they are now."""


async def follow_service(registry: Registry, service: str, told: Told) -> None:
    """Tells of each change, until cancelled: a watch that ends or fails is begun anew."""
    while True:
        try:
            async for instances in registry.watch(service):
                await told(instances)
        except Exception:  # noqa: BLE001 - nothing may end this for good
            _log.exception("the registry's watch of %s failed; trying again", service)
        await asyncio.sleep(AGAIN_S)
