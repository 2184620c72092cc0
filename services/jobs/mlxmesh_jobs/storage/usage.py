"""What attempts used, until the access service knows it."""

import uuid
from collections.abc import Sequence

from mlxmesh_jobs.domain.ports import UsageBatch, UsageEntry
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.details import decode_owner
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.sql.database import Row
from mlxmesh_shared.sql.transactions import Transactions

_RESERVED_MS = 60_000
_FIELDS = (
    "model",
    "model_version",
    "used_ms",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "device_ms",
)
_RESERVE = (
    "UPDATE usage_outbox SET batch_id = $1, sent_ms = $2 WHERE id IN"
    " (SELECT id FROM usage_outbox WHERE batch_id = $3 ORDER BY id LIMIT $4) RETURNING *"
)


class SqlUsageOutbox:
    """Satisfies UsageOutbox."""

    def __init__(self, database: JobsDatabase) -> None:
        """Uses the database, which its caller closes."""
        self._database = database

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    async def unreported(self, limit: int) -> UsageBatch | None:
        return await self._database.group.run(_unreported, limit)

    async def reported(self, batch_id: str) -> None:
        await self._database.group.run(_reported, batch_id)


async def _unreported(work: Work, limits: Sequence[int]) -> list[UsageBatch | MeshError | None]:
    return [await _next(work, limit) for limit in limits]


async def _next(work: Work, limit: int) -> UsageBatch | None:
    """A batch that nobody sent lately, or the oldest entries without one."""
    # A time in the future is one of a clock that was set back.
    earlier = await work.session.fetch(
        "SELECT batch_id FROM usage_outbox WHERE batch_id <> ''"
        " AND (sent_ms <= $1 OR sent_ms > $2) ORDER BY id LIMIT 1",
        work.now_ms - _RESERVED_MS,
        work.now_ms,
    )
    old_id = earlier[0]["batch_id"] if earlier else ""
    batch_id = old_id or uuid.uuid4().hex
    most = 2**31 if old_id else limit
    rows = await work.session.fetch(_RESERVE, batch_id, work.now_ms, old_id, most)
    if not rows:
        return None
    entries = [_entry(row) for row in sorted(rows, key=lambda row: row["id"])]
    return UsageBatch(batch_id=batch_id, entries=entries)


def _entry(row: Row) -> UsageEntry:
    return UsageEntry(
        owner=decode_owner(row["owner"]),
        failed=bool(row["failed"]),
        **{name: row[name] for name in _FIELDS},
    )


async def _reported(work: Work, batch_ids: Sequence[str]) -> list[MeshError | None]:
    for batch_id in batch_ids:
        sql = "DELETE FROM usage_outbox WHERE batch_id = $1 AND batch_id <> ''"
        await work.session.fetch(sql, batch_id)
    return [None] * len(batch_ids)
