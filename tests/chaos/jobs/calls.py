"""Calls of the jobs services, each repeated until one of the instances answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
from grpc import aio

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_shared.rpc.caller import CALLER_METADATA, OWNER_METADATA, ROLE_METADATA

R = TypeVar("R")
PAGE = 1_000
ATTEMPT_S = 3.0
_PAUSE_S = 0.1
METADATA = ((OWNER_METADATA, "#chaos"), (CALLER_METADATA, "chaos"))
RETRIABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
ENDED = (pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 64 << 20),
)


class JobsCalls:
    """A caller of all jobs services."""

    def __init__(self, addresses: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self._addresses = addresses
        self._channels: dict[str, aio.Channel] = {}
        self._turn = 0
        self.failures: Counter[str] = Counter()
        """Calls that got no answer, by status."""

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def answered(
        self,
        call: Callable[[JobServiceStub, float], Awaitable[R]],
        *,
        attempt_s: float = ATTEMPT_S,
    ) -> R:
        """What an instance answers; the call is repeated while it fails in a way that may pass.

        Raises: AioRpcError with any other status.
        """
        while True:
            addresses = sorted(await self._addresses())
            if not addresses:
                self.failures["nobody listed"] += 1
                await asyncio.sleep(_PAUSE_S)
                continue
            self._turn += 1
            try:
                return await call(self.stub(addresses[self._turn % len(addresses)]), attempt_s)
            except aio.AioRpcError as error:
                self.failures[error.code().name] += 1
                if error.code() not in RETRIABLE:
                    raise
                await asyncio.sleep(_PAUSE_S)

    def stub(self, address: str) -> JobServiceStub:
        """Of one instance."""
        if address not in self._channels:
            self._channels[address] = aio.insecure_channel(address, options=_OPTIONS)
        return JobServiceStub(self._channels[address])

    async def submit(self, jobs: Sequence[pb.SubmitJobRequest]) -> Sequence[pb.Job]:
        """Jobs that are stored when it returns; one alone by SubmitJob."""
        if len(jobs) == 1:
            one = await self.answered(
                lambda stub, s: stub.SubmitJob(jobs[0], timeout=s, metadata=METADATA)
            )
            return [one.job]
        request = pb.SubmitJobsRequest(jobs=jobs)
        many = await self.answered(
            lambda stub, s: stub.SubmitJobs(request, timeout=s, metadata=METADATA)
        )
        return many.jobs

    async def get(self, job_id: str) -> pb.Job:
        """One job with its attempts and its result."""
        request = pb.GetJobRequest(job_id=job_id)
        response = await self.answered(
            lambda stub, s: stub.GetJob(request, timeout=s, metadata=METADATA)
        )
        return response.job

    async def ended(self, job_ids: Sequence[str], timeout_s: float) -> Sequence[pb.Job]:
        """These jobs once they have ended. Raises: TimeoutError, which tells the others."""
        found: dict[str, pb.Job] = {}
        give_up_s = time.monotonic() + timeout_s
        while True:
            for job_id in job_ids:
                if job_id not in found or found[job_id].state not in ENDED:
                    found[job_id] = await self.get(job_id)
            waiting = [found[each] for each in job_ids if found[each].state not in ENDED]
            if not waiting:
                return [found[each] for each in job_ids]
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"{len(waiting)} jobs have not ended, such as {waiting[0]}")
            await asyncio.sleep(_PAUSE_S)

    async def set_queue(self, name: str, settings: pb.QueueSettings) -> None:
        """Replaces the settings of a queue, as an admin."""
        request = pb.SetQueueRequest(name=name, settings=settings)
        metadata = (*METADATA, (ROLE_METADATA, "admin"))
        await self.answered(lambda stub, s: stub.SetQueue(request, timeout=s, metadata=metadata))

    async def cancel(self, job_id: str) -> pb.Job:
        """Cancels a job."""
        request = pb.CancelJobRequest(job_id=job_id)
        response = await self.answered(
            lambda stub, s: stub.CancelJob(request, timeout=s, metadata=METADATA)
        )
        return response.job

    async def listed(self, states: Sequence[pb.JobState.ValueType] = ()) -> AsyncIterator[pb.Job]:
        """All jobs in these states, or in any."""
        token = ""
        while True:
            request = pb.ListJobsRequest(page_size=PAGE, page_token=token, states=states)
            page = await self._page(request)
            for job in page.jobs:
                yield job
            if not (token := page.next_page_token):
                return

    async def any(self, states: Sequence[pb.JobState.ValueType]) -> bool:
        """Whether a job is in one of these states."""
        page = await self._page(pb.ListJobsRequest(page_size=1, states=states))
        return bool(page.jobs)

    async def _page(self, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        return await self.answered(
            lambda stub, s: stub.ListJobs(request, timeout=s, metadata=METADATA), attempt_s=30
        )
