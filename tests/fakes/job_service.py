"""The jobs service as workers see it, with jobs in memory: what a test submits is assigned."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import GenerateResponse, Started
from mlxmesh.job.v1 import job_pb2, worker_pb2
from mlxmesh.job.v1.file_pb2_grpc import add_FileServiceServicer_to_server
from mlxmesh.job.v1.worker_pb2_grpc import (
    WorkerServiceServicer,
    add_WorkerServiceServicer_to_server,
)
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ReaderReplaced
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.file_service import FakeFiles

OWNER = worker_pb2.JobOwner(owner="user:ada#", principal="user:ada", share="user:ada", user="ada")


@dataclass
class FakeJob:
    """A job, and all that was stored of it."""

    assignment: worker_pb2.Assignment
    attempt: int = 0
    session: str = ""
    """Of the worker that runs it; empty while none does."""
    state: str = "waiting"
    cancelling: bool = False
    outputs: list[GenerateResponse] = field(default_factory=list[GenerateResponse])
    position: worker_pb2.StreamPosition | None = None
    back_end_state: str = ""
    results: list[worker_pb2.AttemptResult] = field(default_factory=list[worker_pb2.AttemptResult])
    failures: list[worker_pb2.AttemptFailure] = field(
        default_factory=list[worker_pb2.AttemptFailure]
    )
    progress: list[job_pb2.JobProgress] = field(default_factory=list[job_pb2.JobProgress])
    stops: int = 0

    @property
    def id(self) -> worker_pb2.AttemptId:
        return worker_pb2.AttemptId(job_id=self.assignment.id.job_id, attempt=self.attempt)

    @property
    def started(self) -> Started | None:
        return self.outputs[0].started if self.outputs else None

    def text(self, index: int = 0) -> str:
        deltas = (each.delta for each in self.outputs)
        return "".join(delta.text for delta in deltas if delta.index == index)

    def tokens(self, index: int = 0) -> list[int]:
        deltas = [each.delta for each in self.outputs if each.delta.index == index]
        return [token for delta in deltas for token in delta.token_ids]


@dataclass
class FakeSession:
    """One run of a worker."""

    hello: worker_pb2.Hello
    ended: bool = False
    stream: asyncio.Queue[worker_pb2.WorkResponse | None] | None = None
    free: int = 0
    """What the last message had."""
    sent: int = 0
    """Assignments on the stream."""
    received: int = 0
    leaving: bool = False
    back_ends: Sequence[job_pb2.BackEnd] = ()
    busy: Sequence[str] = ()


class FakeJobs:
    """The database that several fake services share."""

    def __init__(self) -> None:
        self.jobs: dict[str, FakeJob] = {}
        self.waiting: deque[FakeJob] = deque()
        self.sessions: dict[str, FakeSession] = {}
        self.retries = True
        """Whether a job runs again after a fault that is not its own."""
        self.owner = OWNER
        self.fenced: list[worker_pb2.AttemptId] = []
        """Attempts whose news were refused."""

    def submit(self, job_id: str, kind: job_pb2.JobKind.ValueType, **fields: Any) -> FakeJob:
        """Stores a job; fields are those of its assignments."""
        message = worker_pb2.Assignment(
            id=worker_pb2.AttemptId(job_id=job_id),
            kind=kind,
            owner=self.owner,
            queue="default",
            **fields,
        )
        job = self.jobs[job_id] = FakeJob(message)
        self.waiting.append(job)
        self.assign()
        return job

    def end_session(self, session: str) -> None:
        """The worker is lost: its jobs wait again."""
        ended = self.sessions[session]
        ended.ended = True
        for job in self.jobs.values():
            if job.session == session:
                self._wait_again(job)
        self.assign()

    def cancel(self, job_id: str) -> None:
        job = self.jobs[job_id]
        job.cancelling = True
        self._send(self.sessions[job.session], worker_pb2.WorkResponse(cancellations=[job.id]))

    def assign(self) -> None:
        """Gives waiting jobs to sessions with free slots."""
        for session in self.sessions.values():
            while (
                self.waiting
                and not session.ended
                and not session.leaving
                and session.stream is not None
                and session.free - (session.sent - session.received) > 0
                and self.waiting[0].assignment.connector.connector not in (*session.busy, None)
            ):
                self._assign(session, self.waiting.popleft())

    def apply(
        self, session: str, updates: Sequence[worker_pb2.AttemptUpdate]
    ) -> list[worker_pb2.AttemptId]:
        """Stores news; returns the attempts that are fenced."""
        fenced = [each.id for each in updates if not self._apply(session, each)]
        self.fenced += fenced
        self.assign()
        return fenced

    def _assign(self, session: FakeSession, job: FakeJob) -> None:
        job.attempt += 1
        job.session, job.state = session.hello.session, "running"
        message = worker_pb2.Assignment()
        message.CopyFrom(job.assignment)
        message.id.CopyFrom(job.id)
        message.outputs = len(job.outputs)
        message.back_end_state_json = job.back_end_state
        if job.started is not None:
            message.started.CopyFrom(job.started)
        if job.position is not None:
            message.position.CopyFrom(job.position)
        session.sent += 1
        self._send(session, worker_pb2.WorkResponse(assignments=[message]))

    def _send(self, session: FakeSession, response: worker_pb2.WorkResponse) -> None:
        if session.stream is not None:
            session.stream.put_nowait(response)

    def _wait_again(self, job: FakeJob) -> None:
        job.session = ""
        if job.cancelling:
            job.state = "cancelled"
            return
        job.state = "waiting"
        self.waiting.append(job)

    def _apply(self, session: str, update: worker_pb2.AttemptUpdate) -> bool:
        job = self.jobs.get(update.id.job_id)
        if job is None or job.session != session or job.attempt != update.id.attempt:
            return False
        news = update.WhichOneof("news")
        if news == "progress":
            job.progress.append(update.progress)
        elif news == "outputs":
            known = len(job.outputs) - update.outputs.first + 1
            assert known >= 0, "a message is missing"
            new = update.outputs.messages[known:]
            if new:
                job.outputs += new
                job.position = update.outputs.position
        elif news == "back_end_state_json":
            job.back_end_state = update.back_end_state_json
        elif news == "result":
            job.results.append(update.result)
            job.session, job.state = "", "completed"
        elif news == "failure":
            job.failures.append(update.failure)
            if self.retries and update.failure.fault != worker_pb2.FAULT_JOB:
                self._wait_again(job)
            else:
                job.session, job.state = "", "failed"
        else:
            job.stops += 1
            self._wait_again(job)
        return True


class FakeJobService(WorkerServiceServicer):
    """One instance, which serves while `running` is entered."""

    def __init__(
        self,
        jobs: FakeJobs | None = None,
        *,
        instance_id: str = "jobs-1",
        lease_s: float = 10.0,
        heartbeat_s: float = 0.1,
    ) -> None:
        self.jobs = jobs or FakeJobs()
        self.files = FakeFiles()
        self.confirms = asyncio.Event()
        """Cleared, nothing is stored or confirmed."""
        self.confirms.set()
        self.messages: list[worker_pb2.WorkRequest] = []
        self.confirmed_after_storing = True
        """False loses confirmations of what was stored."""
        self._instance_id = instance_id
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._server: MeshServer | None = None

    @property
    def instance(self) -> Instance:
        assert self._server is not None
        return Instance("jobs", self._instance_id, self._server.address, 0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeJobService]:
        """Listens on a free port until the context ends, which breaks its streams."""
        self._server = MeshServer(
            services=[
                (add_WorkerServiceServicer_to_server, self),
                (add_FileServiceServicer_to_server, self.files),
            ],
            service_names=["mlxmesh.job.v1.WorkerService", "mlxmesh.job.v1.FileService"],
        )
        await self._server.start()
        await self._server.set_serving()
        try:
            yield self
        finally:
            await self._server.drain(grace_s=0, settle_s=0)

    async def Work(
        self, request_iterator: AsyncIterator[worker_pb2.WorkRequest], context: Any
    ) -> AsyncGenerator[worker_pb2.WorkResponse]:
        first = await anext(request_iterator)
        if not first.HasField("hello") or first.number != 1:
            raise InvalidArgument("the first message must be a Hello", field="hello")
        session, welcome = self._open(first)
        stream: asyncio.Queue[worker_pb2.WorkResponse | None] = asyncio.Queue()
        if session.stream is not None:
            session.stream.put_nowait(None)
        session.stream, session.sent, session.received = stream, 0, 0
        reading = asyncio.create_task(self._read(session, stream, first, request_iterator))
        try:
            yield welcome
            while (response := await stream.get()) is not None:
                yield response
            if session.stream is not stream:
                raise ReaderReplaced("another stream has the session")
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            if session.stream is stream:
                session.stream = None

    def _open(self, first: worker_pb2.WorkRequest) -> tuple[FakeSession, worker_pb2.WorkResponse]:
        hello, jobs = first.hello, self.jobs
        session = jobs.sessions.setdefault(hello.session, FakeSession(hello))
        if session.ended:
            raise IllegalState("this session was ended")
        held = {job.id.SerializeToString() for job in jobs.jobs.values()
                if job.session == hello.session}  # fmt: skip
        fenced = [each for each in hello.running if each.SerializeToString() not in held]
        running = {each.SerializeToString() for each in hello.running}
        for job in jobs.jobs.values():
            # An assignment that did not arrive.
            if job.session == hello.session and job.id.SerializeToString() not in running:
                job.session, job.state = "", "waiting"
                jobs.waiting.append(job)
        welcome = worker_pb2.Welcome(
            lease_ms=round(self._lease_s * 1000),
            heartbeat_ms=round(self._heartbeat_s * 1000),
            fenced=fenced,
        )
        return session, worker_pb2.WorkResponse(welcome=welcome)

    async def _read(
        self,
        session: FakeSession,
        stream: asyncio.Queue[worker_pb2.WorkResponse | None],
        first: worker_pb2.WorkRequest,
        requests: AsyncIterator[worker_pb2.WorkRequest],
    ) -> None:
        await self._take(session, stream, first, 1)
        expected = 2
        async for request in requests:
            await self._take(session, stream, request, expected)
            expected += 1
        stream.put_nowait(None)

    async def _take(
        self,
        session: FakeSession,
        stream: asyncio.Queue[worker_pb2.WorkResponse | None],
        request: worker_pb2.WorkRequest,
        expected: int,
    ) -> None:
        assert request.number == expected, "messages are numbered without gaps"
        self.messages.append(request)
        await self.confirms.wait()
        if session.ended:
            stream.put_nowait(None)
            return
        session.free, session.received = request.free_slots, request.assignments
        session.leaving, session.busy = request.leaving, tuple(request.busy_connectors)
        if request.back_ends:
            session.back_ends = tuple(request.back_ends)
        fenced = self.jobs.apply(session.hello.session, request.updates)
        response = worker_pb2.WorkResponse(confirmed=request.number, fenced=fenced)
        if self.confirmed_after_storing:
            stream.put_nowait(response)
        self.jobs.assign()
