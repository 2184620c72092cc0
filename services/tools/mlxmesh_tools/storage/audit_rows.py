"""Entries for the audit log of the access service that wait to be delivered."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_shared.audit_delivery import AuditEntry
from mlxmesh_shared.sql.database import Session

MAX_ENTRIES = 10_000
"""The oldest entries beyond this are removed: a mesh without users has no audit log."""
_NEXT = "UPDATE counters SET value = value + 1 WHERE name = 'audit' RETURNING value"
_ADD = (
    "INSERT INTO audit_outbox (number, time_ms, actor, action, target, details)"
    " VALUES ($1, $2, $3, $4, $5, $6)"
)
_OLDEST = "SELECT * FROM audit_outbox ORDER BY number LIMIT $1"


@dataclass(frozen=True, kw_only=True)
class Entry(AuditEntry):
    """One entry."""

    number: int = 0
    """Entries are numbered in the order in which they were made."""

    @property
    def identity(self) -> object:
        return (self.number, self.time_ms, self.actor, self.target, self.details)


async def add(session: Session, entry: Entry) -> None:
    """Adds an entry, in the transaction of what it reports."""
    [row] = await session.fetch(_NEXT)
    values = (entry.time_ms, entry.actor, entry.action, entry.target, entry.details)
    await session.fetch(_ADD, row["value"], *values)
    if row["value"] % 100 == 0:
        await remove(session, through=row["value"] - MAX_ENTRIES)


async def oldest(session: Session, limit: int) -> Sequence[Entry]:
    """The oldest entries, the oldest first."""
    names = ("number", "time_ms", "actor", "action", "target", "details")
    rows = await session.fetch(_OLDEST, limit)
    return [Entry(**{name: row[name] for name in names}) for row in rows]


async def remove(session: Session, *, through: int) -> None:
    """Removes entries up to a number."""
    await session.fetch("DELETE FROM audit_outbox WHERE number <= $1", through)
