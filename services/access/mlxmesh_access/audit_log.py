"""The audit log: who changed what, without secrets."""

from dataclasses import dataclass

from mlxmesh_shared.sql.database import Row, Session

MAX_ENTRIES = 1_000_000
"""The oldest entries beyond this are removed, however young."""
_NEXT = "UPDATE counters SET value = value + 1 WHERE name = 'audit' RETURNING value"
_ADD = (
    "INSERT INTO audit_entries (number, time_ms, actor, action, target, details)"
    " VALUES ($1, $2, $3, $4, $5, $6)"
)
_LIST = "SELECT * FROM audit_entries WHERE number < $1 ORDER BY number DESC LIMIT $2"
_LIST_OF_ACTOR = (
    "SELECT * FROM audit_entries WHERE number < $1 AND actor = $3 ORDER BY number DESC LIMIT $2"
)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry."""

    number: int
    """Entries are numbered in the order in which they were made."""
    time_ms: int
    actor: str
    action: str
    target: str
    details: str


async def record(
    session: Session, now_ms: int, actor: str, *, action: str, target: str, details: str = ""
) -> None:
    """Adds an entry, in the transaction of what it reports."""
    [row] = await session.fetch(_NEXT)
    await session.fetch(_ADD, row["value"], now_ms, actor, action, target, details)


async def entries(session: Session, *, actor: str, before: int, limit: int) -> list[AuditEntry]:
    """The newest entries with a smaller number, the newest first.

    actor: empty for all.
    """
    if actor:
        rows = await session.fetch(_LIST_OF_ACTOR, before, limit, actor)
    else:
        rows = await session.fetch(_LIST, before, limit)
    return [_entry(row) for row in rows]


async def prune(session: Session, *, before_ms: int) -> None:
    """Removes entries that are older, and those beyond MAX_ENTRIES."""
    await session.fetch("DELETE FROM audit_entries WHERE time_ms < $1", before_ms)
    [row] = await session.fetch("SELECT value FROM counters WHERE name = 'audit'")
    too_old = row["value"] - MAX_ENTRIES
    await session.fetch("DELETE FROM audit_entries WHERE number <= $1", too_old)


def _entry(row: Row) -> AuditEntry:
    names = ("number", "time_ms", "actor", "action", "target", "details")
    return AuditEntry(*(row[name] for name in names))
