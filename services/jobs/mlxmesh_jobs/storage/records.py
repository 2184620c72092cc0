"""The row of a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from mlxmesh_jobs.domain.jobs import BatchCounts, Job, Kind
from mlxmesh_jobs.domain.recovery import Counts
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage.details import (
    Details,
    decode_details,
    decode_failure,
    decode_progress,
)
from mlxmesh_shared.sql.database import Row, Session, Value

FIXED = (
    "key",
    "job_id",
    "kind",
    "priority",
    "batch_key",
    "number",
    "created_ms",
    "not_before_ms",
    "queue",
    "principal",
    "connector",
)
CHANGING: Mapping[str, str] = {
    **dict.fromkeys(
        "state lane session attempt sequence change outputs deadline_ms ready_ms delay_ms"
        " started_ms attempt_ms ended_ms expires_ms failures unavailable losses".split(),
        "BIGINT",
    ),
    "cost": "DOUBLE PRECISION",
    **dict.fromkeys(("worker_id", "failure", "progress"), "TEXT"),
}
"""With their types."""
COLUMNS = (*FIXED, *CHANGING)
SELECT = f"SELECT {', '.join(f'j.{name}' for name in COLUMNS)}, c.details"
FROM = " FROM jobs AS j JOIN job_contents AS c ON c.key = j.key"
_BATCH = ("total", "completed", "failed", "cancelled", "prompt_tokens", "completion_tokens")


@dataclass(slots=True)
class Record:
    """A job as it is stored; the names of its columns."""

    key: int
    job_id: str
    kind: int
    priority: int
    batch_key: int
    """Of the batch that it is a request of; 0 for other jobs."""
    number: int
    created_ms: int
    not_before_ms: int
    queue: str
    principal: str
    connector: str
    state: int
    lane: int
    session: int
    """That holds it; 0 without."""
    attempt: int
    sequence: int
    change: int
    """The number of the transaction that changed it last; 0 for requests of batches."""
    outputs: int
    deadline_ms: int
    ready_ms: int
    delay_ms: int
    """Of its delay until ready_ms; 0 where that is a time that its owner chose."""
    started_ms: int
    attempt_ms: int
    """When its last attempt began."""
    ended_ms: int
    expires_ms: int
    failures: int
    unavailable: int
    losses: int
    cost: float
    worker_id: str
    failure: str
    progress: str
    details: Details

    @property
    def counts(self) -> Counts:
        """Its failed attempts."""
        return Counts(failures=self.failures, unavailable=self.unavailable, losses=self.losses)


fixed_values = attrgetter(*FIXED)
changing_values = attrgetter(*CHANGING)


def record_of(row: Row) -> Record:
    """A row of SELECT."""
    return Record(*[row[name] for name in COLUMNS], details=decode_details(row["details"]))


def values_of(record: Record) -> Sequence[Value]:
    """Of COLUMNS."""
    return (*fixed_values(record), *changing_values(record))


async def jobs_of(session: Session, records: Sequence[Record]) -> list[Job]:
    """The jobs, of batches with the counts of their requests."""
    batches = [record.key for record in records if record.kind == Kind.BATCH]
    counts = await _batch_counts(session, batches) if batches else {}
    return [_job(record, counts.get(record.key)) for record in records]


async def _batch_counts(session: Session, keys: Sequence[int]) -> dict[int, BatchCounts]:
    found: dict[int, BatchCounts] = {}
    for key in keys:
        for row in await session.fetch("SELECT * FROM batches WHERE key = $1", key):
            found[key] = BatchCounts(**{name: row[name] for name in _BATCH})
    return found


def _job(record: Record, batch: BatchCounts | None) -> Job:
    details, state = record.details, State(record.state)
    return Job(
        key=record.key,
        job_id=record.job_id,
        kind=Kind(record.kind),
        queue=record.queue,
        connector=record.connector,
        owner=details.owner,
        state=state,
        priority=record.priority,
        created_ms=record.created_ms,
        not_before_ms=record.not_before_ms,
        deadline_ms=record.deadline_ms,
        started_ms=record.started_ms,
        ended_ms=record.ended_ms,
        expires_ms=record.expires_ms,
        ready_ms=record.ready_ms if state is State.DELAYED else 0,
        attempt=record.attempt,
        counts=record.counts,
        retry=details.retry,
        attempt_timeout_s=details.attempt_timeout_s,
        sequence=record.sequence,
        outputs=record.outputs,
        cost=record.cost,
        summary=details.summary,
        worker_id=record.worker_id if state.held else "",
        failure=decode_failure(record.failure),
        progress=decode_progress(record.progress),
        labels=details.labels,
        batch_id=record.job_id.rpartition(":")[0] if record.batch_key else "",
        number=record.number,
        custom_id=details.custom_id,
        batch=(batch or BatchCounts()) if record.kind == Kind.BATCH else None,
    )
