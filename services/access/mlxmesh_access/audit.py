"""Reading the audit log."""

from functools import partial

from mlxmesh_access import audit_log
from mlxmesh_access.accounts import rules
from mlxmesh_access.audit_log import AuditEntry
from mlxmesh_access.database import AccessDatabase
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
