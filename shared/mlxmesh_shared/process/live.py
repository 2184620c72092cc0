"""What every process does with settings that change: it follows the store, and its log level."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from mlxmesh_shared.settings import LiveSettings, MeshSettings
from mlxmesh_shared.telemetry import set_log_level

S = TypeVar("S", bound=MeshSettings)


@contextlib.asynccontextmanager
async def following(live: LiveSettings[S], section: str) -> AsyncGenerator[None]:
    """Has a process's settings follow Consul's keys, where Consul is its registry."""
    live.subscribe(lambda now: set_log_level(now.log_level))
    if live.current.registry != "consul":
        yield
        return
    # Not at the top: a mesh on one machine need not pay for an HTTP client.
    from mlxmesh_shared.consul.key_values import follow_stored

    task = asyncio.create_task(follow_stored(live, section), name="follow-settings")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
