"""Starts one service process and waits until it serves."""

from __future__ import annotations

import asyncio
import socket

from mlxmesh_launcher.child import Child
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry

START_TIMEOUT_S = 60.0
SUCCESSOR_TIMEOUT_S = 300.0
"""For a process whose predecessor serves meanwhile: a busy host may take long, and an upgrade of
tables needs further modules.
"""


async def spawn(child: Child) -> None:
    """Starts the process. Raises: ServiceUnavailable."""
    try:
        await child.spawn()
    except OSError as error:
        raise ServiceUnavailable(f"cannot start {child.name}: {error}") from None


async def until_serving(
    child: Child, registry: Registry, timeout_s: float = START_TIMEOUT_S
) -> Instance:
    """Waits until the child is registered, which it does once it serves.

    Raises: ServiceUnavailable when it ends before that, or takes too long.
    """
    registered = asyncio.create_task(_until_registered(child, registry))
    ended = asyncio.create_task(child.ended())
    try:
        async with asyncio.timeout(timeout_s):
            done, _ = await asyncio.wait((registered, ended), return_when=asyncio.FIRST_COMPLETED)
        await next(iter(done))
        return registered.result()
    except TimeoutError:
        raise ServiceUnavailable(
            f"{child.name} did not serve within {timeout_s:g} s: {child.log_tail()}"
        ) from None
    finally:
        registered.cancel()
        ended.cancel()
        await asyncio.gather(registered, ended, return_exceptions=True)


async def _until_registered(child: Child, registry: Registry) -> Instance:
    async for instances in registry.watch(child.name):
        for instance in instances:
            is_local = instance.metadata.get("host") == socket.gethostname()
            if is_local and instance.pid == child.pid:
                return instance
    raise ServiceUnavailable("the registry watch ended")
