"""What time does to jobs: delays end, deadlines pass, and what has ended is removed."""

from collections.abc import Sequence

from mlxmesh_jobs.domain.jobs import Kind
from mlxmesh_jobs.storage import lanes, moves, sessions
from mlxmesh_jobs.storage.moves import EndedRecord
from mlxmesh_jobs.storage.rows import select
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.sql.database import Session

_AT_A_TIME = 500
_PARTS = {
    "job_contents": "key",
    "job_results": "key",
    "job_resumptions": "key",
    "job_outputs": "job_key",
    "job_attempts": "job_key",
    "job_labels": "job_key",
    "job_files": "job_key",
    "batches": "key",
    "jobs": "key",
}


async def promote(work: Work, asked: Sequence[None]) -> list[float | MeshError | None]:
    """Makes delayed jobs wait whose time has come; the seconds until the next one is due."""
    # By a clock that was set back, some delays have not even begun: they begin again.
    await work.session.fetch(
        "UPDATE jobs SET ready_ms = delay_ms + $1"
        " WHERE state = 1 AND delay_ms > 0 AND ready_ms - delay_ms > $1",
        work.now_ms,
    )
    due = await work.where(
        "j.state = 1 AND j.ready_ms <= $1 ORDER BY j.ready_ms LIMIT $2", work.now_ms, _AT_A_TIME
    )
    for record in due:
        moves.due(work, record)
    await work.flush()
    [row] = await work.session.fetch("SELECT MIN(ready_ms) AS ready_ms FROM jobs WHERE state = 1")
    wait_s = None if row["ready_ms"] is None else max(0, row["ready_ms"] - work.now_ms) / 1_000
    return [wait_s] * len(asked)


async def expire(work: Work, asked: Sequence[None]) -> list[Sequence[EndedRecord] | MeshError]:
    """Fails some jobs whose deadline has passed, batches before their requests."""
    late = await work.where(
        "j.deadline_ms > 0 AND j.ended_ms = 0 AND j.deadline_ms <= $1"
        " ORDER BY j.deadline_ms, j.key LIMIT $2",
        work.now_ms,
        _AT_A_TIME,
    )
    batches = [record for record in late if record.kind == Kind.BATCH]
    # A batch cancels its requests with one statement: they are not to be read before.
    ended = [moves.expire(work, record) for record in batches or late]
    return _of_first(ended, len(asked))


async def prune(work: Work, asked: Sequence[None]) -> list[int | MeshError]:
    """Removes some ended jobs whose retention is over, and how many."""
    session = work.session
    sql = "SELECT key, kind FROM jobs WHERE expires_ms > 0 AND expires_ms <= $1 LIMIT $2"
    rows = await session.fetch(sql, work.now_ms, _AT_A_TIME)
    keys = [row["key"] for row in rows if row["kind"] != Kind.BATCH]
    for row in rows:
        if row["kind"] == Kind.BATCH and len(keys) < _AT_A_TIME:
            keys += await _of_batch(session, row["key"], _AT_A_TIME - len(keys))
    await _remove(session, keys)
    if keys:
        work.changed = True
    else:
        await lanes.remove_empty(session)
        await sessions.forget_ended(session, work.now_ms)
        sql = "DELETE FROM blocked_principals WHERE until_ms <= $1"
        await session.fetch(sql, work.now_ms)
    return _counted(len(keys), len(asked))


async def _of_batch(session: Session, key: int, limit: int) -> list[int]:
    """Requests of a batch; the batch itself comes last."""
    sql = "SELECT key FROM jobs WHERE batch_key = $1 AND batch_key > 0 ORDER BY number LIMIT $2"
    keys = [row["key"] for row in await session.fetch(sql, key, limit)]
    return [*keys, key] if len(keys) < limit else keys


async def _remove(session: Session, keys: Sequence[int]) -> None:
    failed = (
        "SELECT lane, COUNT(*) AS count FROM jobs WHERE state = 6 AND key IN ({wanted})"
        " GROUP BY lane"
    )
    for row in await select(session, failed, keys):
        sql = "UPDATE lanes SET failed = failed - $2 WHERE id = $1"
        await session.fetch(sql, row["lane"], row["count"])
    for table, column in _PARTS.items():
        await select(session, f"DELETE FROM {table} WHERE {column} IN ({{wanted}})", keys)  # noqa: S608


def _of_first(ended: list[EndedRecord], askers: int) -> list[Sequence[EndedRecord] | MeshError]:
    """What happened is told once."""
    return [ended, *([] for _ in range(askers - 1))]


def _counted(removed: int, askers: int) -> list[int | MeshError]:
    return [removed, *[0] * (askers - 1)]
