"""The requests of batches in SQL."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from mlxmesh_jobs.domain.jobs import (
    DEFAULT_ATTEMPT_TIMEOUT_S,
    AttemptId,
    FailureFacts,
    Kind,
    NewJob,
)
from mlxmesh_jobs.domain.ports import BatchItem, NewRequest
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.details import decode_details, decode_failure
from mlxmesh_jobs.storage.owner_moves import job_not_found
from mlxmesh_jobs.storage.records import Record
from mlxmesh_jobs.storage.submitting import new_record
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import Cancelled, IllegalState, MeshError
from mlxmesh_shared.sql.database import Row, Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

_CANCELLED = FailureFacts(
    code=Cancelled.code.value[0], reason=Cancelled.reason, message="the request was cancelled"
)


class SqlBatchStore:
    """Satisfies BatchStore."""

    def __init__(self, database: JobsDatabase) -> None:
        """Uses the database, which its caller closes."""
        self._database = database

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    async def add_requests(
        self,
        batch: AttemptId,
        requests: Sequence[NewRequest],
        *,
        read_bytes: int,
        max_running: int = 0,
    ) -> None:
        adding = _Adding(batch, requests, read_bytes, max_running)
        await self._database.group.run(_add_all, adding)

    async def set_total(self, batch: AttemptId, total: int) -> None:
        await self._database.group.run(_set_totals, (batch, total))

    async def set_result(self, batch: AttemptId, result: bytes) -> None:
        await self._database.group.run(_set_results, (batch, result))

    @uncancellable
    async def read_bytes(self, job_id: str) -> tuple[int, int]:
        return await self._database.transactions.read(partial(_read_bytes, job_id=job_id))

    @uncancellable
    async def items(self, job_id: str, *, after: int, limit: int) -> Sequence[BatchItem]:
        return await self._database.transactions.read(
            partial(_read_items, job_id=job_id, after=after, limit=limit)
        )


@dataclass(frozen=True)
class _Adding:
    batch: AttemptId
    requests: Sequence[NewRequest]
    read_bytes: int
    max_running: int


async def _add_all(work: Work, wanted: Sequence[_Adding]) -> list[MeshError | None]:
    done: list[MeshError | None] = []
    for one in wanted:
        try:
            done.append(await _add(work, one))
        except IllegalState as error:
            done.append(error)
        await work.flush()
    return done


async def _add(work: Work, adding: _Adding) -> None:
    record = await _running(work, adding.batch)
    [counts] = await work.session.fetch("SELECT * FROM batches WHERE key = $1", record.key)
    new = [one for one in adding.requests if one.number > counts["stored"]]
    first = counts["stored"] + 1
    if [one.number for one in new] != list(range(first, first + len(new))):
        raise IllegalState(f"{record.job_id} has {counts['stored']} requests; the next ones follow")
    if new:
        for key, request in zip(await work.new_keys(len(new)), new, strict=True):
            _insert(work, record, request, key)
    work.count(record.key, stored=len(new), read_bytes=adding.read_bytes - counts["read_bytes"])
    await work.session.fetch(
        "UPDATE batches SET max_running = $2 WHERE key = $1", record.key, adding.max_running
    )
    work.touch(record)


def _insert(work: Work, batch: Record, request: NewRequest, key: int) -> None:
    details = replace(
        batch.details,
        labels={},
        custom_id=request.custom_id,
        attempt_timeout_s=DEFAULT_ATTEMPT_TIMEOUT_S,
    )
    job = NewJob(
        job_id=f"{batch.job_id}:{request.number}",
        kind=Kind.REQUEST,
        queue=batch.queue,
        owner=details.owner,
        request=request.body,
        digest=hashlib.sha256(request.body).digest(),
        summary=details.summary,
        priority=batch.priority,
        deadline_ms=batch.deadline_ms,
    )
    record = new_record(work, job, details, batch_key=batch.key, number=request.number)
    record.key = key
    work.insert(record, job)


async def _set_totals(
    work: Work, wanted: Sequence[tuple[AttemptId, int]]
) -> list[MeshError | None]:
    done: list[MeshError | None] = []
    for batch, total in wanted:
        try:
            record = await _running(work, batch)
        except IllegalState as error:
            done.append(error)
            continue
        [counts] = await work.session.fetch("SELECT total FROM batches WHERE key = $1", record.key)
        work.count(record.key, total=total - counts["total"])
        work.touch(record)
        await work.flush()
        done.append(None)
    return done


async def _set_results(
    work: Work, wanted: Sequence[tuple[AttemptId, bytes]]
) -> list[MeshError | None]:
    done: list[MeshError | None] = []
    for batch, result in wanted:
        try:
            record = await _running(work, batch)
        except IllegalState as error:
            done.append(error)
            continue
        work.add_result(record, result)
        work.touch(record)
        await work.flush()
        done.append(None)
    return done


async def _running(work: Work, batch: AttemptId) -> Record:
    """Raises: IllegalState for an attempt that does not run, or was asked to stop."""
    record = (await work.by_ids([batch.job_id])).get(batch.job_id)
    if record is None or record.attempt != batch.attempt or record.state != State.RUNNING:
        raise IllegalState(f"attempt {batch.attempt} of {batch.job_id} does not run any more")
    return record


async def _read_bytes(session: Session, *, job_id: str) -> tuple[int, int]:
    rows = await session.fetch(
        "SELECT b.read_bytes, b.stored FROM batches AS b JOIN jobs AS j ON j.key = b.key"
        " WHERE j.job_id = $1",
        job_id,
    )
    if not rows:
        raise job_not_found(job_id)
    return rows[0]["read_bytes"], rows[0]["stored"]


async def _read_items(session: Session, *, job_id: str, after: int, limit: int) -> list[BatchItem]:
    rows = await session.fetch(
        # The page first: joined as a whole, PostgreSQL reads all contents for every page.
        "SELECT j.number, j.state, j.failure, c.details, r.result FROM"
        " (SELECT key, number, state, failure FROM jobs"
        " WHERE batch_key = (SELECT key FROM jobs WHERE job_id = $1) AND batch_key > 0"
        " AND number > $2 AND state IN (5, 6, 7) ORDER BY number LIMIT $3) AS j"
        " JOIN job_contents AS c ON c.key = j.key"
        " LEFT JOIN job_results AS r ON r.key = j.key ORDER BY j.number",
        job_id,
        after,
        limit,
    )
    return [_item(row) for row in rows]


def _item(row: Row) -> BatchItem:
    failure = _CANCELLED if row["state"] == State.CANCELLED else decode_failure(row["failure"])
    return BatchItem(
        number=row["number"],
        custom_id=decode_details(row["details"]).custom_id,
        result=row["result"] or b"",
        failure=failure,
    )
