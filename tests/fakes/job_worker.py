"""A worker that speaks WorkerService and does what a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.generation.v1.generation_pb2 import Delta, GenerateResponse, Started
from mlxmesh.job.v1 import job_pb2
from mlxmesh.job.v1 import worker_pb2 as pb
from mlxmesh.job.v1.worker_pb2_grpc import WorkerServiceStub

KINDS = (job_pb2.JOB_KIND_GENERATION, job_pb2.JOB_KIND_EMBEDDING, job_pb2.JOB_KIND_REQUEST)
WAIT_S = 30.0
"""A test that waits longer has failed."""


class ScriptedWorker:
    """One session of a worker, over one stream after another."""

    def __init__(
        self,
        channel: aio.Channel,
        worker_id: str = "worker-1",
        *,
        session: str = "s1",
        slots: int = 4,
        kinds: Sequence[job_pb2.JobKind.ValueType] = KINDS,
        connectors: Sequence[pb.Connector] = (),
        queues: Sequence[str] = (),
        back_ends: Sequence[job_pb2.BackEnd] = (),
    ) -> None:
        self._channel = channel
        self.worker_id = worker_id
        self.session = session
        self.slots = slots
        self.kinds = kinds
        self.connectors = connectors
        self.queues = queues
        self.back_ends = back_ends
        self.running: dict[str, pb.Assignment] = {}
        """Attempts that it has, by job."""
        self.assigned: asyncio.Queue[pb.Assignment] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.fenced: asyncio.Queue[str] = asyncio.Queue()
        self.welcome = pb.Welcome()
        self.ended: Any = None
        """With what the stream ended; None while it is open, or ended by itself."""
        self.leaving = False
        self.busy_connectors: Sequence[str] = ()
        self._call: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._number = 0
        self._received = 0
        self._confirmed = asyncio.Condition()
        self._writing = asyncio.Lock()
        """A stream takes one write at a time; heartbeats and reports share it."""
        self._highest_confirmed = 0

    async def connect(self, channel: aio.Channel | None = None) -> None:
        """Opens a stream; to another service with another channel."""
        self._channel = channel or self._channel
        self._number = self._received = self._highest_confirmed = 0
        self.ended = None
        self._call = WorkerServiceStub(self._channel).Work()
        hello = pb.Hello(
            worker_id=self.worker_id,
            session=self.session,
            host="host-1",
            slots=self.slots,
            kinds=self.kinds,
            connectors=self.connectors,
            queues=self.queues,
            running=[each.id for each in self.running.values()],
        )
        await self._send(hello=hello, back_ends=self.back_ends)
        response = await self._call.read()
        assert response.HasField("welcome")
        self.welcome = response.welcome
        for attempt in self.welcome.fenced:
            self._fence(attempt)
        self._tasks = [
            asyncio.create_task(self._read()),
            asyncio.create_task(self._heartbeats()),
        ]

    async def next(self) -> pb.Assignment:
        """The next attempt that it gets."""
        return await asyncio.wait_for(self.assigned.get(), WAIT_S)

    async def report(self, *updates: pb.AttemptUpdate) -> None:
        """Sends news, and waits until they are confirmed."""
        number = await self.send(*updates)
        async with asyncio.timeout(WAIT_S), self._confirmed:
            await self._confirmed.wait_for(
                lambda: self._highest_confirmed >= number or self.ended is not None
            )
        if self._highest_confirmed < number:
            raise self.ended

    async def send(self, *updates: pb.AttemptUpdate) -> int:
        """Sends news; returns the number of the message."""
        for update in updates:
            if update.WhichOneof("news") in ("result", "failure", "stopped"):
                self.running.pop(update.id.job_id, None)
        return await self._send(updates=updates)

    async def kill(self) -> None:
        """Ends the stream as a process that is killed does."""
        await self.pause()
        self._call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._call.code()

    async def pause(self) -> None:
        """Sends and reads nothing, while the stream stays open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def busy(self, *connectors: str) -> None:
        """Says so from now on, and returns once the service has heard it."""
        self.busy_connectors = connectors
        await self.report()

    async def wait_ended(self) -> Any:
        """With what the stream ended."""
        async with asyncio.timeout(WAIT_S):
            await self._tasks[0]
        return self.ended

    async def _send(self, **fields: Any) -> int:
        async with self._writing:
            self._number += 1
            number = self._number
            request = pb.WorkRequest(
                number=number,
                free_slots=0 if self.leaving else max(0, self.slots - len(self.running)),
                assignments=self._received,
                leaving=self.leaving,
                busy_connectors=self.busy_connectors,
                **fields,
            )
            await self._call.write(request)
            return number

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self.welcome.heartbeat_ms / 2000)
            await self._send()

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not aio.EOF:
                await self._take(response)
        except Exception as error:  # noqa: BLE001 - the test reads it
            self.ended = error
        async with self._confirmed:
            self._confirmed.notify_all()

    async def _take(self, response: pb.WorkResponse) -> None:
        for assignment in response.assignments:
            self._received += 1
            self.running[assignment.id.job_id] = assignment
            self.assigned.put_nowait(assignment)
        for attempt in response.cancellations:
            self.cancelled.put_nowait(attempt.job_id)
        for attempt in response.fenced:
            self._fence(attempt)
        if response.confirmed:
            async with self._confirmed:
                self._highest_confirmed = max(self._highest_confirmed, response.confirmed)
                self._confirmed.notify_all()

    def _fence(self, attempt: pb.AttemptId) -> None:
        held = self.running.get(attempt.job_id)
        if held is not None and held.id == attempt:
            del self.running[attempt.job_id]
        self.fenced.put_nowait(attempt.job_id)


@asynccontextmanager
async def connected(worker: ScriptedWorker) -> AsyncGenerator[ScriptedWorker]:
    """A worker with a stream, which ends with the body."""
    await worker.connect()
    try:
        yield worker
    finally:
        await worker.kill()


def completed(assignment: pb.Assignment, **used: Any) -> pb.AttemptUpdate:
    """The attempt completed."""
    result = pb.AttemptResult(generation=pb.GenerationEnd(messages=2), cost=0.5)
    if used:
        result.used.CopyFrom(pb.UsedAmounts(**used))
    return pb.AttemptUpdate(id=assignment.id, result=result)


def failed(assignment: pb.Assignment, fault: int, reason: str = "TESTED") -> pb.AttemptUpdate:
    """The attempt failed."""
    failure = Failure(code=14, reason=reason, message="it failed as the test wanted")
    told = pb.AttemptFailure(failure=failure, fault=pb.Fault.ValueType(fault))
    return pb.AttemptUpdate(id=assignment.id, failure=told)


def stopped(assignment: pb.Assignment) -> pb.AttemptUpdate:
    """The attempt was stopped."""
    return pb.AttemptUpdate(id=assignment.id, stopped=pb.Stopped())


def outputs(assignment: pb.Assignment, first: int, *texts: str) -> pb.AttemptUpdate:
    """Messages of its stream; number 1 is its start."""
    messages = [
        GenerateResponse(sequence=number, started=Started(model="chat", model_version=3))
        if number == 1
        else GenerateResponse(sequence=number, delta=Delta(text=text, token_ids=[number]))
        for number, text in enumerate(texts, first)
    ]
    position = pb.StreamPosition(tokens=[first + len(texts)])
    return pb.AttemptUpdate(
        id=assignment.id, outputs=pb.Outputs(first=first, messages=messages, position=position)
    )


def progress(assignment: pb.Assignment, fraction: float) -> pb.AttemptUpdate:
    """It has come so far."""
    return pb.AttemptUpdate(
        id=assignment.id, progress=job_pb2.JobProgress(fraction=fraction, unit="tokens")
    )
