"""What owners do to their jobs."""

from collections.abc import Collection, Sequence

from mlxmesh_jobs.domain.jobs import Kind
from mlxmesh_jobs.domain.states import Move, State, sources
from mlxmesh_jobs.storage import batch_rows, moves
from mlxmesh_jobs.storage.records import Record
from mlxmesh_jobs.storage.rows import select
from mlxmesh_jobs.storage.work import Work, snapshot
from mlxmesh_shared.errors import IllegalState, JobNotFound, MeshError


async def cancel(work: Work, job_ids: Sequence[str]) -> list[Record | MeshError]:
    """The cancelled jobs."""
    records = await work.by_ids(job_ids)
    done: list[Record | MeshError] = []
    for job_id in job_ids:
        record = records.get(job_id)
        if record is None:
            done.append(job_not_found(job_id))
            continue
        moves.cancel(work, record)
        done.append(snapshot(record))
    return done


async def retry(work: Work, job_ids: Sequence[str]) -> list[Record | MeshError]:
    """The jobs that run again."""
    records = await work.by_ids(job_ids)
    failed = await batch_rows.with_failed(
        work.session, [record.key for record in records.values() if record.kind == Kind.BATCH]
    )
    done = [_retry(work, job_id, records.get(job_id), failed) for job_id in job_ids]
    again = [one for one in done if isinstance(one, Record)]
    await work.flush()
    sql = "DELETE FROM job_results WHERE key IN ({wanted})"
    await select(work.session, sql, [one.key for one in again])
    for record in again:
        if record.kind == Kind.BATCH:
            await batch_rows.retry_requests(work.session, record.key, await work.next_change())
    return done


def _retry(
    work: Work, job_id: str, record: Record | None, failed: Collection[int]
) -> Record | MeshError:
    """failed: the keys of batches of which some requests did not complete."""
    if record is None:
        return job_not_found(job_id)
    if record.kind != Kind.BATCH and State(record.state) not in sources(Move.RETRY):
        return IllegalState(f"{job_id} has not failed and was not cancelled; it cannot run again")
    try:
        moves.retry(work, record, has_failed_requests=record.key in failed)
    except MeshError as error:
        return error
    return snapshot(record)


def job_not_found(job_id: str) -> JobNotFound:
    """The error for an unknown job."""
    return JobNotFound(f"there is no job {job_id}", field="job_id")
