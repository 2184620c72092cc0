"""SQL statements of rollouts, for both databases; each runs in its caller's transaction."""

from collections.abc import Sequence
from datetime import datetime

from mlxmesh_model.rollouts import rows
from mlxmesh_model.rollouts.guards import Counts
from mlxmesh_model.rollouts.rollout import ENDED, Change, Rollout
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.statements import upsert

_PUT = upsert(
    "rollouts",
    ("rollout_id", "model", "created_us", "active", "content"),
    ("rollout_id",),
)
_PUT_CHANGE = upsert(
    "rollout_changes", ("rollout_id", "revision", "content"), ("rollout_id", "revision")
)
_PUT_COUNTS = upsert(
    "rollout_counts",
    ("rollout_id", "step_window", "version", "content"),
    ("rollout_id", "step_window", "version"),
)


async def find(session: Session, rollout_id: str) -> Rollout | None:
    """A rollout by its id."""
    found = await session.fetch("SELECT content FROM rollouts WHERE rollout_id = $1", rollout_id)
    return rows.to_rollout(found[0]["content"]) if found else None


async def read_active(session: Session) -> list[Rollout]:
    """The rollouts that have not ended, or whose unused version is still to be unloaded."""
    found = await session.fetch(
        "SELECT content FROM rollouts WHERE active = 1 ORDER BY created_us, rollout_id"
    )
    return [rows.to_rollout(row["content"]) for row in found]


async def read_page(
    session: Session, *, model: str, before: tuple[int, str] | None, limit: int
) -> list[Rollout]:
    """Rollouts, the newest first, from before a position on; of all models without a name."""
    created_us, rollout_id = before or (1 << 62, "")
    found = await session.fetch(
        "SELECT content FROM rollouts"
        " WHERE (model = $1 OR $2 = 0)"
        " AND (created_us < $3 OR (created_us = $4 AND rollout_id < $5))"
        " ORDER BY created_us DESC, rollout_id DESC LIMIT $6",
        *(model, int(bool(model)), created_us, created_us, rollout_id, limit),
    )
    return [rows.to_rollout(row["content"]) for row in found]


def position(rollout: Rollout) -> tuple[int, str]:
    """Where a rollout is in the list of all."""
    return _microseconds(rollout.created_at), rollout.rollout_id


async def put(session: Session, rollout: Rollout) -> None:
    """Stores a rollout."""
    is_active = rollout.state not in ENDED or not rollout.released
    created_us, rollout_id = position(rollout)
    values = (rollout_id, rollout.wish.model, created_us, int(is_active))
    await session.fetch(_PUT, *values, rows.rollout_text(rollout))


async def put_change(session: Session, rollout: Rollout, change: Change) -> None:
    """Adds a change to the history."""
    values = (rollout.rollout_id, rollout.revision, rows.change_text(change))
    await session.fetch(_PUT_CHANGE, *values)


async def read_changes(session: Session, rollout_id: str) -> list[Change]:
    """The history, oldest first."""
    found = await session.fetch(
        "SELECT content FROM rollout_changes WHERE rollout_id = $1 ORDER BY revision", rollout_id
    )
    return [rows.to_change(row["content"]) for row in found]


async def read_counts(
    session: Session, rollout_id: str, version: int, *, newest: int
) -> Sequence[tuple[int, Counts]]:
    """The counts of a version by window, the newest first, up to one."""
    found = await session.fetch(
        "SELECT step_window, content FROM rollout_counts"
        " WHERE rollout_id = $1 AND version = $2 AND step_window <= $3 ORDER BY step_window DESC",
        *(rollout_id, version, newest),
    )
    return [(row["step_window"], rows.to_counts(row["content"])) for row in found]


async def add_counts(session: Session, rollout: Rollout, version: int, added: Counts) -> None:
    """Adds to the counts of a version in the present step."""
    found = await session.fetch(
        "SELECT content FROM rollout_counts"
        " WHERE rollout_id = $1 AND step_window = $2 AND version = $3",
        *(rollout.rollout_id, rollout.window, version),
    )
    total = rows.to_counts(found[0]["content"]) + added if found else added
    values = (rollout.rollout_id, rollout.window, version, rows.counts_text(total))
    await session.fetch(_PUT_COUNTS, *values)


def _microseconds(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)
