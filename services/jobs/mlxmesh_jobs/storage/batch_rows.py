"""The counts of batches, and their requests as a whole."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mlxmesh_jobs.domain.jobs import Kind
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage.rows import insert, select, update
from mlxmesh_shared.sql.database import Session

BATCH = Kind.BATCH
_COUNTS = (
    "read_bytes",
    "stored",
    "total",
    "completed",
    "failed",
    "cancelled",
    "prompt_tokens",
    "completion_tokens",
)
_WAITING = "batch_key = $1 AND batch_key > 0 AND state IN (1, 2)"


async def insert_batches(session: Session, keys: Sequence[int]) -> None:
    """Begins to count."""
    columns = ("key", "max_running", *_COUNTS)
    await insert(session, "batches", columns, [(key, *[0] * (len(columns) - 1)) for key in keys])


async def add_counts(session: Session, batches: Mapping[int, Counter[str]], change: int) -> None:
    """Adds to the counts, each time as a change of the batch's job."""
    columns = {"key": "BIGINT", **dict.fromkeys(_COUNTS, "BIGINT")}
    rows = [(key, *(counts[name] for name in _COUNTS)) for key, counts in batches.items()]
    await update(session, "batches", columns, rows, add=frozenset(_COUNTS))
    changed = [(key, 1, change) for key in batches]
    columns = {"key": "BIGINT", "sequence": "BIGINT", "change": "BIGINT"}
    await update(session, "jobs", columns, changed, add=frozenset({"sequence"}))


async def cancel_requests(session: Session, key: int, now_ms: int, change: int) -> None:
    """Cancels those that wait, and lets those that run be cancelled."""
    [row] = await session.fetch(f"SELECT COUNT(*) AS count FROM jobs WHERE {_WAITING}", key)  # noqa: S608
    await session.fetch(
        f"UPDATE jobs SET state = 7, ended_ms = $2, sequence = sequence + 1 WHERE {_WAITING}",  # noqa: S608
        key,
        now_ms,
    )
    await session.fetch(
        "UPDATE lanes SET delayed = 0, waiting = 0 WHERE batch_key = $1 AND batch_key > 0", key
    )
    await session.fetch(
        "UPDATE jobs SET state = 4, sequence = sequence + 1"
        " WHERE batch_key = $1 AND batch_key > 0 AND state = 3",
        key,
    )
    await add_counts(session, {key: Counter(cancelled=row["count"])}, change)


async def with_failed(session: Session, keys: Sequence[int]) -> set[int]:
    """Those of the batches of which some requests did not complete."""
    sql = "SELECT key FROM batches WHERE failed + cancelled > 0 AND key IN ({wanted})"
    return {row["key"] for row in await select(session, sql, keys)}


async def retry_requests(session: Session, key: int, change: int) -> None:
    """Lets those that failed or were cancelled wait again, with as many attempts as new ones."""
    [row] = await session.fetch("SELECT failed, cancelled FROM batches WHERE key = $1", key)
    again = row["failed"] + row["cancelled"]
    if not again:
        return
    await session.fetch(
        "DELETE FROM job_results WHERE key IN (SELECT key FROM jobs"
        " WHERE batch_key = $1 AND batch_key > 0 AND state = 6)",
        key,
    )
    [lane] = await session.fetch(
        "UPDATE lanes SET waiting = waiting + $2, failed = 0"
        " WHERE batch_key = $1 AND batch_key > 0 RETURNING id",
        key,
        again,
    )
    await session.fetch(
        "UPDATE jobs SET state = 2, lane = $2, ended_ms = 0, failures = 0, unavailable = 0,"
        " losses = 0, failure = '', sequence = sequence + 1"
        " WHERE batch_key = $1 AND batch_key > 0 AND state IN (6, 7)",
        key,
        lane["id"],
    )
    counts = Counter(failed=-row["failed"], cancelled=-row["cancelled"])
    await add_counts(session, {key: counts}, change)


async def is_ended(session: Session, key: int) -> bool:
    """Whether the batch's job has ended."""
    rows = await session.fetch("SELECT state FROM jobs WHERE key = $1", key)
    return not rows or State(rows[0]["state"]).ended
