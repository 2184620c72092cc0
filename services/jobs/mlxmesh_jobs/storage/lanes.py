"""Lanes: the jobs that differ in nothing that a claim looks at, and how many there are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage.records import Record
from mlxmesh_jobs.storage.rows import insert, update
from mlxmesh_shared.sql.database import Session

COUNTED_AS: Mapping[State, str] = {
    State.DELAYED: "delayed",
    State.WAITING: "waiting",
    State.RUNNING: "running",
    State.CANCELLING: "running",
    State.FAILED: "failed",
}
"""The column of a lane that counts the jobs in a state; others are not counted."""
COUNTS = ("delayed", "waiting", "running", "failed")
Counts = Counter[str]


class LaneKey(NamedTuple):
    """What the jobs of a lane have in common."""

    queue: str
    priority: int
    principal: str
    kind: int
    connector: str
    batch_key: int

    @classmethod
    def of(cls, record: Record) -> "LaneKey":
        """A job's."""
        return cls(*(getattr(record, name) for name in cls._fields))


_KEY = LaneKey._fields
_PUT = (
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = lanes.{name} + excluded.{name}" for name in COUNTS)
    + f" RETURNING id, {', '.join(_KEY)}"
)


async def put_lanes(session: Session, placed: Mapping[LaneKey, Sequence[Record]]) -> None:
    """Counts jobs in their lanes, which are made if need be, and tells the jobs their lane."""
    rows: list[tuple[str | int, ...]] = []
    for key, records in placed.items():
        counts = Counter(COUNTED_AS[State(record.state)] for record in records)
        rows.append((*key, *(counts[name] for name in COUNTS), 0))
    for row in await insert(session, "lanes", (*_KEY, *COUNTS, "served"), rows, _PUT):
        for record in placed[LaneKey(*(row[name] for name in _KEY))]:
            record.lane = row["id"]


async def add_counts(
    session: Session, moved: Mapping[int, Counts], served: Mapping[int, int]
) -> None:
    """Adds to the counts of lanes.

    served: when a claim took jobs of lanes, all of which have moved.
    """
    columns = {"id": "BIGINT", **dict.fromkeys(COUNTS, "BIGINT")}
    rows = {lane: (lane, *(counts[name] for name in COUNTS)) for lane, counts in moved.items()}
    others = [row for lane, row in rows.items() if lane not in served]
    await update(session, "lanes", columns, others, add=frozenset(COUNTS))
    taken = [(*rows[lane], change) for lane, change in served.items()]
    await update(session, "lanes", {**columns, "served": "BIGINT"}, taken, add=frozenset(COUNTS))


async def remove_empty(session: Session) -> None:
    """Removes the lanes without jobs; a new job makes its lane again."""
    empty = " AND ".join(f"{name} = 0" for name in COUNTS)
    # That of a batch is where its requests go when it is retried.
    unused = "batch_key NOT IN (SELECT key FROM batches)"
    await session.fetch(f"DELETE FROM lanes WHERE {empty} AND {unused}")  # noqa: S608
