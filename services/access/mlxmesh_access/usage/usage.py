"""Recording usage, once, and summing it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mlxmesh_access.accounts import key_rows
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.usage import usage_rows
from mlxmesh_access.usage.models import (
    UsageQuery,
    UsageRecord,
    UsageSum,
    last_used_minutes,
    summed,
)
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller
from mlxmesh_shared.sql.transactions import Transactions, uncancellable


class Usage:
    """What calls have used."""

    def __init__(self, database: AccessDatabase) -> None:
        """Uses the database, which its caller closes."""
        self._database = database

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    @uncancellable
    async def record(self, batch_id: str, records: Sequence[UsageRecord]) -> bool:
        """Adds a batch, and notes when keys were used; False if it was recorded before."""
        async with self.transactions.write() as session:
            if not await usage_rows.begin_batch(session, batch_id, self._database.clock()):
                return False
            await usage_rows.add_usage(session, summed(records))
            await key_rows.set_last_used(session, last_used_minutes(records))
        return True

    @uncancellable
    async def query(
        self, caller: Caller, query: UsageQuery, *, after: Sequence[str | int], limit: int
    ) -> list[UsageSum]:
        """The sums after a position; a client gets its own usage only."""
        query = visible_query(caller, query)
        return await self.transactions.read(
            partial(usage_rows.sum_usage, query=query, after=after, limit=limit)
        )


def visible_query(caller: Caller, query: UsageQuery) -> UsageQuery:
    """The part of a query that the caller may see: a client's own user, or its own principal."""
    if caller.is_admin:
        return query
    if caller.user:
        return replace(query, user=caller.user)
    return replace(query, principal=caller.principal)
