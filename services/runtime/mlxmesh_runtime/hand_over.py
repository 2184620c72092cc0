"""A leaving runtime keeps its engines until the model service has replaced them elsewhere."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from mlxmesh_runtime.engines import Engines
from mlxmesh_shared.registry.port import Instance, Registry

_log = logging.getLogger(__name__)


async def hand_over(
    registry: Registry, instance: Instance, engines: Engines, timeout_s: float
) -> None:
    """Says in the registry that this runtime leaves, and waits until its engines were stopped.

    Returns at once when no other runtime could take them over, and after timeout_s whatever is
    left. The model service places each replica elsewhere, and stops the one here once the other is
    ready.
    """
    engines.refuse_new()
    if not await _successors(registry, instance):
        return
    await registry.register(instance.as_draining())
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await engines.none_left()
            return
    _log.warning("not all engines were replaced within %g s; they are stopped now", timeout_s)


async def _successors(registry: Registry, instance: Instance) -> list[Instance]:
    return [
        other
        for other in await registry.resolve(instance.service)
        if other.instance_id != instance.instance_id and not other.draining
    ]
