"""What the store does in its transactions, with jobs as their results."""

from collections.abc import Sequence

from mlxmesh_jobs.domain.jobs import Ended, Job, NewJob, QueueSettings
from mlxmesh_jobs.domain.ports import Applied
from mlxmesh_jobs.storage import owner_moves, queues, retention, sessions, submitting, updates
from mlxmesh_jobs.storage.moves import EndedRecord
from mlxmesh_jobs.storage.records import Record, jobs_of
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.sql.statements import upsert

_BLOCK = upsert("blocked_principals", ("principal", "until_ms"), ("principal",))


async def submit(
    work: Work, submissions: Sequence[Sequence[NewJob]]
) -> list[list[Job] | MeshError]:
    """The jobs of each submission as they are now."""
    done = await submitting.submit(work, submissions)
    await work.flush()
    return [one if isinstance(one, MeshError) else await jobs_of(work.session, one) for one in done]


async def cancel(work: Work, job_ids: Sequence[str]) -> list[Job | MeshError]:
    """The cancelled jobs."""
    return await _jobs(work, await owner_moves.cancel(work, job_ids))


async def retry(work: Work, job_ids: Sequence[str]) -> list[Job | MeshError]:
    """The jobs that run again."""
    return await _jobs(work, await owner_moves.retry(work, job_ids))


async def apply(work: Work, wanted: Sequence[updates.SessionUpdates]) -> list[Applied | MeshError]:
    """What became of the news of each session."""
    done = await updates.apply(work, wanted)
    await work.flush()
    return [
        one
        if isinstance(one, MeshError)
        else Applied(fenced=one.fenced, ended=await _ended(work, one.ended))
        for one in done
    ]


async def end_sessions(
    work: Work, endings: Sequence[sessions.Ending]
) -> list[Sequence[Ended] | MeshError]:
    """What became of the attempts of each session."""
    return await _all_ended(work, await sessions.end_sessions(work, endings))


async def stop_attempts(
    work: Work, stoppings: Sequence[sessions.Stopping]
) -> list[Sequence[Ended] | MeshError]:
    """What became of the attempts that still ran."""
    return await _all_ended(work, await sessions.stop_attempts(work, stoppings))


async def expire(work: Work, asked: Sequence[None]) -> list[Sequence[Ended] | MeshError]:
    """The jobs that failed by their deadline."""
    return await _all_ended(work, await retention.expire(work, asked))


async def set_queues(
    work: Work, wanted: Sequence[tuple[str, QueueSettings]]
) -> list[MeshError | None]:
    """Replaces the settings of queues."""
    for name, settings in wanted:
        await queues.put_settings(work.session, name, settings, work.now_ms)
    work.changed = True
    return [None] * len(wanted)


async def block(work: Work, wanted: Sequence[tuple[str, int]]) -> list[MeshError | None]:
    """Starts no job of principals before a time."""
    for principal, until_ms in wanted:
        await work.session.fetch(_BLOCK, principal, until_ms)
    return [None] * len(wanted)


async def _jobs(work: Work, done: Sequence[Record | MeshError]) -> list[Job | MeshError]:
    await work.flush()
    found: list[Job | MeshError] = []
    for one in done:
        found += [one] if isinstance(one, MeshError) else await jobs_of(work.session, [one])
    return found


async def _all_ended(
    work: Work, done: Sequence[Sequence[EndedRecord] | MeshError]
) -> list[Sequence[Ended] | MeshError]:
    await work.flush()
    return [one if isinstance(one, MeshError) else await _ended(work, one) for one in done]


async def _ended(work: Work, records: Sequence[EndedRecord]) -> list[Ended]:
    jobs = await jobs_of(work.session, [one.record for one in records])
    return [
        Ended(job=job, recovery=one.recovery, delay_ms=one.delay_ms, failure=one.failure)
        for one, job in zip(records, jobs, strict=True)
    ]
