"""Hands the engines of a runtime that shuts down over to other runtimes."""

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
    """Marks this runtime as draining in the registry, and waits until its engines are stopped.

    The model service places each replica on another runtime, and stops the one here once the new
    one is ready. Returns at once if there is no other runtime, and after timeout_s in any case.
    """
    engines.refuse_starts()
    if not await _successors(registry, instance):
        return
    await registry.register(instance.as_draining())
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await engines.wait_until_empty()
            return
    _log.warning("not all engines were replaced within %g s; stopping the rest", timeout_s)


async def _successors(registry: Registry, instance: Instance) -> list[Instance]:
    return [
        other
        for other in await registry.resolve(instance.service)
        if other.instance_id != instance.instance_id and not other.draining
    ]
