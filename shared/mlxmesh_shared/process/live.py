"""Applies changes of settings to a running process."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from mlxmesh_shared.config_store import ConfigStore, open_config_store
from mlxmesh_shared.settings import LiveSettings, MeshSettings, section_values
from mlxmesh_shared.telemetry import set_log_level

S = TypeVar("S", bound=MeshSettings)


@contextlib.asynccontextmanager
async def following(live: LiveSettings[S], section: str) -> AsyncGenerator[None]:
    """Keeps a process's settings, and its log level, in step with the configuration store."""
    live.subscribe(lambda now: set_log_level(now.log_level))
    async with open_config_store(live.current) as store:
        task = asyncio.create_task(follow_store(store, live, section), name="follow-settings")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def follow_store(store: ConfigStore, live: LiveSettings[S], section: str) -> None:
    """Applies each content of the store to the settings, until cancelled."""
    async with contextlib.aclosing(store.watch()) as contents:
        async for content in contents:
            live.apply(section_values(content, section))
