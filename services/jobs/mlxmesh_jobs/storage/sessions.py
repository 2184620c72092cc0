"""Sessions of workers, and of jobs services that run batches."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_jobs.domain.jobs import AttemptId, Failed, FailureFacts, StoredSession
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage import moves
from mlxmesh_jobs.storage.moves import EndedRecord
from mlxmesh_jobs.storage.records import Record
from mlxmesh_jobs.storage.rows import select
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import IllegalState, MeshError
from mlxmesh_shared.sql.database import Session

_RETENTION_MS = 86_400_000
_OPEN = (
    "INSERT INTO sessions (worker_id, session, beat, ended_ms, facts) VALUES ($1, $2, 1, 0, $3)"
    " ON CONFLICT (worker_id, session) DO UPDATE"
    " SET beat = sessions.beat + 1, facts = excluded.facts WHERE sessions.ended_ms = 0"
    " RETURNING key"
)
_RUNNING = "(SELECT COUNT(*) FROM jobs WHERE session = sessions.key AND session > 0)"


@dataclass(frozen=True)
class Opening:
    """A session to open."""

    worker_id: str
    session: str
    facts: bytes


async def open_sessions(work: Work, openings: Sequence[Opening]) -> list[int | MeshError]:
    """The keys."""
    return [await _open(work.session, one) for one in openings]


async def _open(session: Session, opening: Opening) -> int | MeshError:
    rows = await session.fetch(_OPEN, opening.worker_id, opening.session, opening.facts)
    if not rows:
        return IllegalState(f"the session of {opening.worker_id} was ended; begin another one")
    return rows[0]["key"]


async def describe(work: Work, described: Sequence[tuple[int, bytes]]) -> list[MeshError | None]:
    """Replaces the facts of sessions."""
    for key, facts in described:
        await work.session.fetch("UPDATE sessions SET facts = $2 WHERE key = $1", key, facts)
    return [None] * len(described)


async def beat(work: Work, wanted: Sequence[Sequence[int]]) -> list[Sequence[int] | MeshError]:
    """Records heartbeats; returns those of the sessions that were ended."""
    sql = (
        "UPDATE sessions SET beat = beat + 1 WHERE ended_ms = 0 AND key IN ({wanted}) RETURNING key"
    )
    keys = sorted({key for one in wanted for key in one})
    living = {row["key"] for row in await select(work.session, sql, keys)}
    return [[key for key in one if key not in living] for one in wanted]


async def read_sessions(session: Session) -> list[StoredSession]:
    """Those that were not ended."""
    rows = await session.fetch(
        f"SELECT *, {_RUNNING} AS running FROM sessions WHERE ended_ms = 0 ORDER BY key"  # noqa: S608
    )
    names = ("key", "worker_id", "session", "beat", "running", "facts")
    return [StoredSession(**{name: row[name] for name in names}) for row in rows]


@dataclass(frozen=True)
class Ending:
    """A session to end."""

    key: int
    beat: int | None
    fault: Fault
    failure: FailureFacts


async def end_sessions(
    work: Work, endings: Sequence[Ending]
) -> list[Sequence[EndedRecord] | MeshError]:
    """What became of the attempts of each."""
    return [await _end(work, one) for one in endings]


async def _end(work: Work, ending: Ending) -> list[EndedRecord]:
    sql = "UPDATE sessions SET ended_ms = $2 WHERE key = $1 AND ended_ms = 0"
    values = [ending.key, work.now_ms]
    if ending.beat is not None:
        sql += " AND beat = $3"
        values.append(ending.beat)
    if not await work.session.fetch(f"{sql} RETURNING key", *values):
        return []
    held = await work.where("j.session = $1 AND j.session > 0 ORDER BY j.key", ending.key)
    news = Failed(failure=ending.failure, fault=ending.fault)
    work.changed = True
    return [moves.fail(work, record, news) for record in held]


async def read_held(session: Session, key: int) -> list[AttemptId]:
    """The attempts that a session holds."""
    rows = await session.fetch(
        "SELECT job_id, attempt FROM jobs WHERE session = $1 AND session > 0 ORDER BY key", key
    )
    return [AttemptId(row["job_id"], row["attempt"]) for row in rows]


async def read_cancelling(session: Session) -> list[AttemptId]:
    """Running attempts that were asked to stop."""
    rows = await session.fetch("SELECT job_id, attempt FROM jobs WHERE state = 4 ORDER BY key")
    return [AttemptId(row["job_id"], row["attempt"]) for row in rows]


@dataclass(frozen=True)
class Stopping:
    """Attempts to end."""

    ids: Sequence[AttemptId]
    fault: Fault
    failure: FailureFacts


async def stop_attempts(
    work: Work, stoppings: Sequence[Stopping]
) -> list[Sequence[EndedRecord] | MeshError]:
    """What became of each of those that still run."""
    records = await work.by_ids(id_.job_id for one in stoppings for id_ in one.ids)
    return [_stop(work, one, records) for one in stoppings]


def _stop(work: Work, stopping: Stopping, records: dict[str, Record]) -> list[EndedRecord]:
    news = Failed(failure=stopping.failure, fault=stopping.fault)
    ended: list[EndedRecord] = []
    for id_ in stopping.ids:
        record = records.get(id_.job_id)
        if record and record.attempt == id_.attempt and State(record.state).held:
            ended.append(moves.fail(work, record, news))
    return ended


async def forget_ended(session: Session, now_ms: int) -> None:
    """Removes sessions that were ended long ago; their attempts have other sessions."""
    await session.fetch(
        "DELETE FROM sessions WHERE ended_ms > 0 AND ended_ms < $1", now_ms - _RETENTION_MS
    )
