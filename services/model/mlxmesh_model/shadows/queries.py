"""SQL statements of shadows, for both databases; each runs in its caller's transaction."""

from collections.abc import Sequence
from datetime import datetime

from mlxmesh_model.shadows import rows
from mlxmesh_model.shadows.shadow import Pair, Run
from mlxmesh_model.shadows.tally import Tally
from mlxmesh_shared.sql.database import Session, Value
from mlxmesh_shared.sql.statements import upsert

_ADD = upsert("shadows", rows.RUN_COLUMNS, ("shadow_id",))
_PUT_TALLY = upsert("shadow_tallies", ("shadow_id", "content"), ("shadow_id",))
_PUT_BATCH = upsert("shadow_batches", ("instance_id", "batch", "seen_at"), ("instance_id",))
# Below the number of values that a statement may have.
_ROWS = 500


async def find(session: Session, shadow_id: str) -> Run | None:
    """A shadow by its id."""
    found = await session.fetch("SELECT * FROM shadows WHERE shadow_id = $1", shadow_id)
    return rows.to_run(found[0]) if found else None


async def read_page(session: Session, *, model: str, before: int, limit: int) -> list[Run]:
    """The newest shadows whose number is below `before`; of every model for an empty name."""
    of_model = " AND model = $3" if model else ""
    select = f"SELECT * FROM shadows WHERE number < $1{of_model}"  # noqa: S608
    values = (before, limit, model) if model else (before, limit)
    found = await session.fetch(f"{select} ORDER BY number DESC LIMIT $2", *values)
    return [rows.to_run(row) for row in found]


async def next_number(session: Session) -> int:
    """The number of a new shadow."""
    [row] = await session.fetch("SELECT COALESCE(MAX(number), 0) + 1 AS next FROM shadows")
    return row["next"]


async def add(session: Session, run: Run) -> None:
    """Stores a shadow that runs."""
    await session.fetch(_ADD, *rows.run_values(run))


async def end(session: Session, shadow_id: str, now: datetime) -> None:
    """Marks a shadow as ended."""
    update = "UPDATE shadows SET ended_at = $2 WHERE shadow_id = $1"
    await session.fetch(update, shadow_id, now)


async def delete_oldest(session: Session, model: str, *, keep: int) -> None:
    """Removes the oldest shadows of a model that have ended, with what they found."""
    newest = (
        "SELECT number FROM shadows WHERE model = $1 AND ended_at IS NOT NULL"
        " ORDER BY number DESC LIMIT 1 OFFSET $2"
    )
    delete = "DELETE FROM shadows WHERE model = $1 AND ended_at IS NOT NULL AND number <= "
    await session.fetch(f"{delete}({newest})", model, keep)


async def read_tally(session: Session, shadow_id: str) -> Tally:
    """What a shadow found so far."""
    select = "SELECT content FROM shadow_tallies WHERE shadow_id = $1"
    found = await session.fetch(select, shadow_id)
    return rows.to_tally(found[0]["content"]) if found else Tally()


async def put_tally(session: Session, shadow_id: str, tally: Tally) -> None:
    """Stores what a shadow found so far."""
    await session.fetch(_PUT_TALLY, shadow_id, rows.tally_text(tally))


async def add_pairs(session: Session, shadow_id: str, first: int, pairs: Sequence[Pair]) -> None:
    """Stores pairs, numbered from `first` on."""
    columns = rows.PAIR_COLUMNS
    for start in range(0, len(pairs), _ROWS):
        part = pairs[start : start + _ROWS]
        values: list[Value] = []
        for number, pair in enumerate(part, start=first + start):
            values += rows.pair_values(shadow_id, number, pair)
        statement = upsert("shadow_pairs", columns, columns[:2], rows=len(part))
        await session.fetch(statement, *values)


async def delete_pairs(session: Session, shadow_id: str, *, through: int) -> None:
    """Removes the pairs up to a number."""
    delete = "DELETE FROM shadow_pairs WHERE shadow_id = $1 AND number <= $2"
    await session.fetch(delete, shadow_id, through)


async def read_pairs(session: Session, shadow_id: str) -> list[Pair]:
    """The pairs that are kept, the newest first."""
    select = "SELECT * FROM shadow_pairs WHERE shadow_id = $1 ORDER BY number DESC"
    return [rows.to_pair(row) for row in await session.fetch(select, shadow_id)]


async def last_batch(session: Session, instance_id: str) -> int:
    """The number of the last batch of an instance that was recorded."""
    select = "SELECT batch FROM shadow_batches WHERE instance_id = $1"
    found = await session.fetch(select, instance_id)
    return found[0]["batch"] if found else 0


async def put_batch(
    session: Session, instance_id: str, number: int, *, now: datetime, forget_before: datetime
) -> None:
    """Stores the number of a batch, and forgets instances that reported nothing for long."""
    await session.fetch(_PUT_BATCH, instance_id, number, now)
    await session.fetch("DELETE FROM shadow_batches WHERE seen_at < $1", forget_before)
