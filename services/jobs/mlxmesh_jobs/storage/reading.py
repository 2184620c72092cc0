"""Reading jobs, and what belongs to them."""

from collections.abc import Callable, Sequence

from mlxmesh_jobs.domain.jobs import Attempt, Job, JobChanges, JobFilter
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage.details import decode_failure
from mlxmesh_jobs.storage.owner_moves import job_not_found
from mlxmesh_jobs.storage.records import FROM, SELECT, jobs_of, record_of
from mlxmesh_shared.sql.database import Row, Session, Value

_MAX_ATTEMPTS = 100


async def read_job(session: Session, *, job_id: str) -> Job:
    """One job. Raises: JobNotFound."""
    rows = await session.fetch(f"{SELECT}{FROM} WHERE j.job_id = $1", job_id)
    if not rows:
        raise job_not_found(job_id)
    [job] = await jobs_of(session, [record_of(rows[0])])
    return job


async def read_attempts(session: Session, *, job_id: str) -> list[Attempt]:
    """The last ended attempts, oldest first. That of a completed job is part of the job itself."""
    rows = await session.fetch(
        "SELECT a.* FROM job_attempts AS a JOIN jobs AS j ON j.key = a.job_key"
        " WHERE j.job_id = $1 ORDER BY a.attempt DESC LIMIT $2",
        job_id,
        _MAX_ATTEMPTS,
    )
    completed = await session.fetch(
        "SELECT attempt, worker_id, attempt_ms AS started_ms, ended_ms, '' AS failure,"
        " '' AS recovery FROM jobs WHERE job_id = $1 AND state = $2",
        job_id,
        int(State.COMPLETED),
    )
    return [_attempt(row) for row in [*reversed(rows), *completed]][-_MAX_ATTEMPTS:]


def _attempt(row: Row) -> Attempt:
    return Attempt(
        attempt=row["attempt"],
        worker_id=row["worker_id"],
        started_ms=row["started_ms"],
        ended_ms=row["ended_ms"],
        failure=decode_failure(row["failure"]),
        recovery=row["recovery"],
    )


async def read_part(session: Session, *, job_id: str, table: str, column: str) -> bytes:
    """The result or the request of a job; empty without one. Raises: JobNotFound."""
    rows = await session.fetch(
        f"SELECT p.{column} AS part FROM jobs AS j LEFT JOIN {table} AS p ON p.key = j.key"  # noqa: S608
        " WHERE j.job_id = $1",
        job_id,
    )
    if not rows:
        raise job_not_found(job_id)
    return rows[0]["part"] or b""


async def read_outputs(
    session: Session, *, job_id: str, after_sequence: int, limit: int
) -> list[tuple[int, bytes]]:
    """Messages of its stream with the job's sequence at each, oldest first."""
    rows = await session.fetch(
        "SELECT o.sequence, o.data FROM job_outputs AS o"
        " WHERE o.job_key = (SELECT key FROM jobs WHERE job_id = $1) AND o.sequence > $2"
        " ORDER BY o.sequence LIMIT $3",
        job_id,
        after_sequence,
        limit,
    )
    return [(row["sequence"], row["data"]) for row in rows]


async def read_jobs(
    session: Session, *, wanted: JobFilter, before_key: int, limit: int
) -> list[Job]:
    """Jobs with smaller keys, the newest first; of a batch, with greater numbers in their order."""
    values: list[Value] = [before_key, limit]

    def bind(value: Value) -> str:
        values.append(value)
        return f"${len(values)}"

    conditions = _conditions(wanted, bind)
    order = "j.number" if wanted.batch_id else "j.key DESC"
    rows = await session.fetch(
        f"{SELECT}{FROM} WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT $2", *values
    )
    return await jobs_of(session, [record_of(row) for row in rows])


async def read_changes(session: Session, *, after: int, principal: str, limit: int) -> JobChanges:
    """The jobs that changed after a change, the last first, without requests of batches."""
    # First, so that what changes between the statements is sent again rather than never.
    change = await read_change(session)
    values: list[Value] = [after, limit + 1, *([principal] if principal else [])]
    own = " AND j.principal = $3" if principal else ""
    rows = await session.fetch(
        f"{SELECT}{FROM} WHERE j.change > 0 AND j.change > $1{own} ORDER BY j.change DESC LIMIT $2",
        *values,
    )
    jobs = await jobs_of(session, [record_of(row) for row in rows[:limit]])
    return JobChanges(jobs=jobs, change=change, more=len(rows) > limit)


async def read_change(session: Session) -> int:
    """The number of the last change."""
    [row] = await session.fetch("SELECT value FROM counters WHERE name = 'change'")
    return row["value"]


def _conditions(wanted: JobFilter, bind: Callable[[Value], str]) -> list[str]:
    if wanted.batch_id:
        batch = f"(SELECT key FROM jobs WHERE job_id = {bind(wanted.batch_id)})"  # noqa: S608
        found = [f"j.batch_key = {batch} AND j.batch_key > 0 AND j.number > $1"]
    else:
        kinds = ", ".join(bind(int(kind)) for kind in sorted(wanted.kinds))
        found = ["j.batch_key = 0 AND j.key < $1", f"j.kind IN ({kinds or bind(0)})"]
    if wanted.principal:
        found.append(f"j.principal = {bind(wanted.principal)}")
    if wanted.states:
        # Written out, so that an index of one state serves.
        states = sorted(map(int, wanted.states))
        found.append(f"j.state = {states[0]}" if len(states) == 1 else _in(states))
    if wanted.queue:
        found.append(f"j.queue = {bind(wanted.queue)}")
    if wanted.created_after_ms:
        found.append(f"j.created_ms > {bind(wanted.created_after_ms)}")
    if wanted.created_before_ms:
        found.append(f"j.created_ms < {bind(wanted.created_before_ms)}")
    for name, value in wanted.labels.items():
        found.append(
            f"EXISTS (SELECT 1 FROM job_labels WHERE name = {bind(name)}"  # noqa: S608
            f" AND value = {bind(value)} AND job_key = j.key)"
        )
    return found


def _in(states: Sequence[int]) -> str:
    return f"j.state IN ({', '.join(map(str, states))})"
