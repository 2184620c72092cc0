"""Removes what is too old to keep."""

import asyncio
import logging

from mlxmesh_access import audit_log
from mlxmesh_access.clock import DAY_MS, HOUR_MS
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.quotas import quota_rows
from mlxmesh_access.usage import usage_rows
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

BATCH_RETENTION_MS = 30 * DAY_MS
"""How long a repeated batch of usage is recognized; gateways give up earlier."""
SLICE_RETENTION_MS = DAY_MS
_INTERVAL_S = HOUR_MS / 1000
_log = logging.getLogger("mlxmesh.access")


class Maintenance:
    """Bounds what the access database keeps."""

    def __init__(
        self, database: AccessDatabase, *, audit_retention_days: int, usage_retention_days: int
    ) -> None:
        """Uses the database, which its caller closes."""
        self._database = database
        self._audit_ms = audit_retention_days * DAY_MS
        self._usage_ms = usage_retention_days * DAY_MS

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    async def run(self) -> None:
        """Prunes now and then, until cancelled; what fails is tried again later."""
        while True:
            try:
                await self.prune()
            except MeshError as error:
                _log.warning("old entries were not removed: %s", error.message)
            await asyncio.sleep(_INTERVAL_S)

    @uncancellable
    async def prune(self) -> None:
        """Removes entries that are older than their retention. Raises: MeshError."""
        now_ms = self._database.clock()
        async with self.transactions.write() as session:
            await audit_log.prune(session, before_ms=now_ms - self._audit_ms)
            await usage_rows.prune_usage(session, before_ms=now_ms - self._usage_ms)
            await usage_rows.prune_batches(session, before_ms=now_ms - BATCH_RETENTION_MS)
            await quota_rows.prune_slices(session, before_ms=now_ms - SLICE_RETENTION_MS)
