"""Jobs in SQL."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from mlxmesh_jobs.domain.jobs import (
    Attempt,
    AttemptId,
    Capability,
    Claim,
    Ended,
    FailureFacts,
    Job,
    JobChanges,
    JobFilter,
    NewJob,
    QueueCounts,
    QueueSettings,
    StoredSession,
    Update,
)
from mlxmesh_jobs.domain.ports import Applied
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.storage import claims, operations, queues, reading, retention, sessions
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.group_commit import Operation
from mlxmesh_jobs.storage.sessions import beat as record_beats
from mlxmesh_jobs.storage.sessions import read_sessions
from mlxmesh_jobs.storage.updates import SessionUpdates
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

_Result = TypeVar("_Result")
_Argument = TypeVar("_Argument")


class SqlJobStore:
    """Satisfies JobStore."""

    def __init__(self, database: JobsDatabase) -> None:
        """Uses the database, which its caller closes."""
        self._database = database

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    # Owners.

    async def submit(self, jobs: Sequence[NewJob]) -> list[Job]:
        return await self._run(operations.submit, jobs)

    async def get(self, job_id: str) -> Job:
        return await self._read(partial(reading.read_job, job_id=job_id))

    async def attempts(self, job_id: str) -> Sequence[Attempt]:
        return await self._read(partial(reading.read_attempts, job_id=job_id))

    async def result(self, job_id: str) -> bytes:
        part = partial(reading.read_part, job_id=job_id, table="job_results", column="result")
        return await self._read(part)

    async def request(self, job_id: str) -> bytes:
        part = partial(reading.read_part, job_id=job_id, table="job_contents", column="request")
        return await self._read(part)

    async def outputs(
        self, job_id: str, *, after_sequence: int, limit: int
    ) -> Sequence[tuple[int, bytes]]:
        return await self._read(
            partial(reading.read_outputs, job_id=job_id, after_sequence=after_sequence, limit=limit)
        )

    async def list(self, wanted: JobFilter, *, before_key: int, limit: int) -> Sequence[Job]:
        return await self._read(
            partial(reading.read_jobs, wanted=wanted, before_key=before_key, limit=limit)
        )

    async def changes(self, after: int, *, principal: str, limit: int) -> JobChanges:
        return await self._read(
            partial(reading.read_changes, after=after, principal=principal, limit=limit)
        )

    async def cancel(self, job_id: str) -> Job:
        return await self._run(operations.cancel, job_id)

    async def retry(self, job_id: str) -> Job:
        return await self._run(operations.retry, job_id)

    # Sessions.

    async def open_session(self, worker_id: str, session: str, facts: bytes = b"") -> int:
        opening = sessions.Opening(worker_id, session, facts)
        return await self._run(sessions.open_sessions, opening)

    async def describe_session(self, key: int, facts: bytes) -> None:
        await self._run(sessions.describe, (key, facts))

    async def beat(self, sessions: Sequence[int]) -> Sequence[int]:
        return await self._run(record_beats, sessions)

    async def sessions(self) -> Sequence[StoredSession]:
        return await self._read(read_sessions)

    async def end_session(
        self, key: int, *, beat: int | None, fault: Fault, failure: FailureFacts
    ) -> Sequence[Ended]:
        return await self._run(operations.end_sessions, sessions.Ending(key, beat, fault, failure))

    async def held(self, session: int) -> Sequence[AttemptId]:
        return await self._read(partial(sessions.read_held, key=session))

    async def cancelling(self) -> Sequence[AttemptId]:
        return await self._read(sessions.read_cancelling)

    # Attempts.

    async def claim(
        self, session: int, capability: Capability, limit: int
    ) -> tuple[Sequence[Claim], float | None]:
        return await self._run(claims.claim, claims.Wanted(session, capability, limit))

    async def apply(self, session: int, updates: Sequence[Update]) -> Applied:
        return await self._run(operations.apply, SessionUpdates(session, updates))

    async def stop_attempts(
        self, ids: Sequence[AttemptId], *, fault: Fault, failure: FailureFacts
    ) -> Sequence[Ended]:
        return await self._run(operations.stop_attempts, sessions.Stopping(ids, fault, failure))

    # Time.

    async def promote(self) -> float | None:
        return await self._run(retention.promote, None)

    async def expire(self) -> Sequence[Ended]:
        return await self._run(operations.expire, None)

    async def prune(self) -> int:
        return await self._run(retention.prune, None)

    # Queues.

    async def queues(self) -> Sequence[QueueCounts]:
        return await self._read(queues.read_queues)

    async def set_queue(self, name: str, settings: QueueSettings) -> None:
        await self._run(operations.set_queues, (name, settings))

    async def block_principal(self, principal: str, until_ms: int) -> None:
        await self._run(operations.block, (principal, until_ms))

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        return self._database.subscribe()

    async def _run(self, operation: Operation[_Argument, _Result], argument: _Argument) -> _Result:
        return await self._database.group.run(operation, argument)

    @uncancellable
    async def _read(self, statements: Callable[[Session], Awaitable[_Result]]) -> _Result:
        return await self._database.transactions.read(statements)
