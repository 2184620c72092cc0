"""What the service needs of its database."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from mlxmesh_jobs.domain.jobs import (
    Attempt,
    AttemptId,
    Capability,
    Claim,
    Completed,
    Ended,
    Failed,
    FailureFacts,
    Job,
    JobChanges,
    JobFilter,
    NewJob,
    Owner,
    QueueCounts,
    QueueSettings,
    StoredSession,
    Update,
)
from mlxmesh_jobs.domain.recovery import Fault


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a batch of updates did, in one transaction."""

    fenced: Sequence[AttemptId] = ()
    """Attempts that are not their job's last one, or whose session was ended."""
    ended: Sequence[Ended] = field(default_factory=list[Ended])
    """Attempts that ended, with what follows."""


class JobStore(Protocol):
    """Jobs in a database. Every method is one transaction, and raises MeshError if that fails.

    A writing method that returned has stored its effect durably.
    """

    async def submit(self, jobs: Sequence[NewJob]) -> list[Job]:
        """Stores jobs, all or none; those that are stored already are returned as they are.

        Raises: JobExists, QueueFull, FileNotFound, DiskFull.
        """
        ...

    async def get(self, job_id: str) -> Job:
        """Raises: JobNotFound."""
        ...

    async def attempts(self, job_id: str) -> Sequence[Attempt]:
        """The last 100 ended attempts, oldest first."""
        ...

    async def result(self, job_id: str) -> bytes:
        """The encoded AttemptResult; empty without one."""
        ...

    async def request(self, job_id: str) -> bytes:
        """The encoded SubmitJobRequest."""
        ...

    async def outputs(
        self, job_id: str, *, after_sequence: int, limit: int
    ) -> Sequence[tuple[int, bytes]]:
        """Messages of its stream with the job's sequence at each, oldest first."""
        ...

    async def list(self, wanted: JobFilter, *, before_key: int, limit: int) -> Sequence[Job]:
        """Jobs with smaller keys, the newest first. Those of a batch come in their order instead:
        with greater numbers than `before_key`.
        """
        ...

    async def changes(self, after: int, *, principal: str, limit: int) -> JobChanges:
        """The jobs that changed after a change, without requests of batches.

        principal: only its jobs; empty for all.
        """
        ...

    async def cancel(self, job_id: str) -> Job:
        """Cancels a job, and all requests of a batch. Raises: JobNotFound."""
        ...

    async def retry(self, job_id: str) -> Job:
        """Runs a job again; of a batch, what did not complete of its requests.

        Raises: JobNotFound, IllegalState.
        """
        ...

    async def open_session(self, worker_id: str, session: str, facts: bytes = b"") -> int:
        """The key of a session, new or known; counts as a heartbeat.

        facts: what other jobs services show of the worker, encoded.
        Raises: IllegalState for one that was ended.
        """
        ...

    async def describe_session(self, key: int, facts: bytes) -> None:
        """Replaces the facts of a session."""
        ...

    async def beat(self, sessions: Sequence[int]) -> Sequence[int]:
        """Records heartbeats; returns those of the sessions that were ended."""
        ...

    async def sessions(self) -> Sequence[StoredSession]:
        """The sessions that were not ended."""
        ...

    async def end_session(
        self, key: int, *, beat: int | None, fault: Fault, failure: FailureFacts
    ) -> Sequence[Ended]:
        """Ends a session: its attempts end with this fault, and it cannot write any more.

        beat: ends it only if there was no heartbeat since; None for whatever there was.
        """
        ...

    async def held(self, session: int) -> Sequence[AttemptId]:
        """The attempts that a session holds."""
        ...

    async def claim(
        self, session: int, capability: Capability, limit: int
    ) -> tuple[Sequence[Claim], float | None]:
        """Begins attempts of waiting jobs; also returns in how many seconds a rate limit allows
        more, if only that prevented it.

        Higher priorities come first, then lanes with the fewest running jobs, then the oldest.
        Respects the settings of queues.
        """
        ...

    async def apply(self, session: int, updates: Sequence[Update]) -> Applied:
        """Stores news of attempts that the session holds, in their order, in one transaction."""
        ...

    async def stop_attempts(
        self, ids: Sequence[AttemptId], *, fault: Fault, failure: FailureFacts
    ) -> Sequence[Ended]:
        """Ends running attempts whose worker does not end them itself."""
        ...

    async def cancelling(self) -> Sequence[AttemptId]:
        """Running attempts, of every kind, that were asked to stop."""
        ...

    async def promote(self) -> float | None:
        """Makes delayed jobs wait whose time has come; returns the seconds until the next one is
        due, None without one. A clock that was set back delays no retry by more than its delay.
        """
        ...

    async def expire(self) -> Sequence[Ended]:
        """Fails jobs whose deadline has passed; some at a time, and none when it is done."""
        ...

    async def prune(self) -> int:
        """Removes some ended jobs whose retention is over; 0 when it is done."""
        ...

    async def queues(self) -> Sequence[QueueCounts]:
        """All queues, by name."""
        ...

    async def set_queue(self, name: str, settings: QueueSettings) -> None:
        """Replaces the settings of a queue."""
        ...

    async def block_principal(self, principal: str, until_ms: int) -> None:
        """Starts no job of a principal before a time, such as one whose quota is used up."""
        ...

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after every change by this process, and soon after one by another;
        the subscriber clears it before it reads.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class UsageEntry:
    """What one attempt used."""

    owner: Owner
    model: str
    model_version: int
    used_ms: int
    """When it ended."""
    failed: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    device_ms: int


@dataclass(frozen=True, kw_only=True)
class UsageBatch:
    """Usage that is reported together, once, however often it is sent."""

    batch_id: str
    """The same each time the batch is returned."""
    entries: Sequence[UsageEntry]


class UsageOutbox(Protocol):
    """What attempts used and the access service does not know yet; written with their ends."""

    async def unreported(self, limit: int) -> UsageBatch | None:
        """The oldest entries, which stay one batch until they are reported; None without any.

        No other process gets the same batch within a minute.
        """
        ...

    async def reported(self, batch_id: str) -> None:
        """Removes a batch."""
        ...


class BatchRunner(Protocol):
    """Runs jobs of kind BATCH within a jobs service."""

    async def run(self, claim: Claim) -> Completed | Failed:
        """What became of an attempt of a batch.

        Returns once every request has ended. When it is cancelled, the batch is stopped or runs
        elsewhere, and it raises CancelledError soon. Raises: MeshError, after which the batch is
        tried again.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class NewRequest:
    """A request of a batch to store."""

    number: int
    custom_id: str
    body: bytes
    """The RequestWork, encoded: the path and the body."""


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """A request of a batch that has ended."""

    number: int
    custom_id: str
    result: bytes
    """The encoded AttemptResult; empty if there was no response."""
    failure: FailureFacts | None


class BatchStore(Protocol):
    """The requests of batches. A batch is claimed like every job, by a jobs service, and what an
    older attempt writes is refused with IllegalState.
    """

    async def add_requests(
        self,
        batch: AttemptId,
        requests: Sequence[NewRequest],
        *,
        read_bytes: int,
        max_running: int = 0,
    ) -> None:
        """Stores the next requests, and how much of the file was read with them; those that are
        stored already are skipped.

        max_running: how many of the batch's requests run at once; 0 for no limit.
        """
        ...

    async def set_total(self, batch: AttemptId, total: int) -> None:
        """Records that the whole file was read."""
        ...

    async def read_bytes(self, job_id: str) -> tuple[int, int]:
        """How much of the file was read, and how many requests were stored."""
        ...

    async def set_result(self, batch: AttemptId, result: bytes) -> None:
        """Records the AttemptResult of a batch, encoded, before the batch ends; JobStore.result
        returns it, also if the batch fails. A retry clears it.
        """
        ...

    async def items(self, job_id: str, *, after: int, limit: int) -> Sequence[BatchItem]:
        """Requests that have ended, with greater numbers, in their order."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file, as in File."""

    file_id: str
    name: str
    purpose: int
    size_bytes: int
    sha256: str
    media_type: str
    complete: bool
    owner: Owner
    created_ms: int
    expires_ms: int
    job_id: str


class FileStore(Protocol):
    """Files in the database, in pieces."""

    async def create(self, file: StoredFile) -> StoredFile:
        """Begins a file. Raises: DiskFull, FilesFull."""
        ...

    async def append(self, file_id: str, offset: int, data: bytes) -> int:
        """The size after it. Raises: FileNotFound, IllegalState, FilesFull."""
        ...

    async def finish(self, file_id: str, size_bytes: int, sha256: str) -> StoredFile:
        """Completes a file. Raises: FileNotFound, InvalidArgument."""
        ...

    async def get(self, file_id: str) -> StoredFile:
        """Raises: FileNotFound."""
        ...

    async def list(
        self,
        *,
        principal: str,
        purpose: int,
        job_id: str,
        oldest_first: bool,
        after: tuple[int, str] | None,
        limit: int,
    ) -> Sequence[StoredFile]:
        """Files after the position (created_ms, file_id); an empty principal for all."""
        ...

    def read(self, file_id: str, offset: int) -> AsyncGenerator[bytes]:
        """Its bytes from an offset, in pieces of at most 1 MiB. Raises: FileNotFound."""
        ...

    async def delete(self, file_id: str) -> None:
        """Raises: FileNotFound, IllegalState for one that a job reads."""
        ...

    async def prune(self) -> int:
        """Removes some files that have expired, or were never completed; 0 when it is done."""
        ...
