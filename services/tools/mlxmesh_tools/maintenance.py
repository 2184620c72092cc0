"""Removes records of calls that are too old to keep."""

import asyncio
import logging

from mlxmesh_shared.errors import MeshError
from mlxmesh_tools.clock import Clock
from mlxmesh_tools.storage.store import ToolStore

_INTERVAL_S = 3600.0
_DAY_MS = 86_400_000
_log = logging.getLogger("mlxmesh.tools")


class Maintenance:
    """Bounds what the tools database keeps."""

    def __init__(self, store: ToolStore, *, retention_days: int, clock: Clock) -> None:
        self._store = store
        self._retention_ms = retention_days * _DAY_MS
        self._clock = clock

    async def run(self) -> None:
        """Prunes now and then, until cancelled; what fails is tried again later."""
        while True:
            try:
                await self._store.prune(before_ms=self._clock() - self._retention_ms)
            except MeshError as error:
                _log.warning("old records of calls were not removed: %s", error.message)
            await asyncio.sleep(_INTERVAL_S)
