"""The audit log, for those who read it and for services that add to it."""

from collections.abc import Sequence
from functools import partial

from mlxmesh_access import audit_log
from mlxmesh_access.accounts import rules
from mlxmesh_access.audit_log import AuditEntry
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.usage.usage_rows import begin_batch
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller
from mlxmesh_shared.sql.transactions import Transactions, uncancellable


class Audit:
    """The audit log."""

    def __init__(self, database: AccessDatabase) -> None:
        """Uses the database, which its caller closes."""
        self._database = database

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    @uncancellable
    async def entries(
        self, caller: Caller, *, actor: str, before: int, limit: int
    ) -> list[AuditEntry]:
        """The newest entries with a smaller number, the newest first. Raises: PermissionDenied."""
        rules.require_admin(caller)
        return await self.transactions.read(
            partial(audit_log.entries, actor=actor, before=before, limit=limit)
        )

    @uncancellable
    async def record(self, batch_id: str, entries: Sequence[AuditEntry]) -> bool:
        """Adds a batch of another service; False if it was recorded before."""
        async with self.transactions.write() as session:
            if not await begin_batch(session, batch_id, self._database.clock()):
                return False
            for one in entries:
                await audit_log.record(
                    session,
                    one.time_ms,
                    one.actor,
                    action=one.action,
                    target=one.target,
                    details=one.details,
                )
        return True
