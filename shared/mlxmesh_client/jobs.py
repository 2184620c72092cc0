"""The client's methods for jobs, queues and workers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, TypedDict, Unpack

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from mlxmesh.generation.v1.embedding_pb2 import EMBED_PURPOSE_UNSPECIFIED, EmbedPurpose
from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_client.calls import Calls
from mlxmesh_shared.errors import DeadlineExceeded, ServiceUnavailable

RECONNECT_PAUSE_S = 0.5
ENDED = frozenset({pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED})
"""The states after which nothing happens to a job by itself."""


class JobOptions(TypedDict, total=False):
    """When and how often a job runs; the contract documents each field of SubmitJobRequest."""

    job_id: str
    queue: str
    priority: int
    not_before: datetime
    deadline: datetime
    max_attempts: int
    attempt_timeout_s: int
    labels: Mapping[str, str]
    retention_s: int


class JobsClient:
    """One method per RPC of JobService; `MeshClient.jobs` has it.

    A job gets its id here, so that a submit which is repeated after a lost connection stores it
    once.

        job = await mesh.jobs.submit_generation(generation, queue="nightly")
        ended = await mesh.jobs.wait(job.job_id)
        print(ended.generation.text)
    """

    def __init__(self, channel: aio.Channel, calls: Calls) -> None:
        self._stub = JobServiceStub(channel)
        self._calls = calls

    async def submit_generation(
        self,
        generation: GenerateRequest,
        *,
        timeout_s: float | None = None,
        **options: Unpack[JobOptions],
    ) -> pb.Job:
        """Stores a generation; `generate_request` makes its request."""
        request = _request(options)
        request.generation.CopyFrom(generation)
        return await self.submit(request, timeout_s=timeout_s)

    def watch_all(
        self,
        *,
        newest: int = 0,
        after_change: int = 0,
        interval_ms: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[pb.WatchJobsResponse]:
        """Yields the caller's newest jobs, then each job after its changes."""
        request = pb.WatchJobsRequest(
            newest=newest, after_change=after_change, interval_ms=interval_ms
        )
        return self._calls.stream(self._stub.WatchJobs, request, timeout_s, safe=True)

    async def submit_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        max_running: int = 0,
        timeout_s: float | None = None,
        **options: Unpack[JobOptions],
    ) -> pb.Job:
        """Stores a batch of the requests in a file, which `MeshClient.files.put` stores."""
        request = _request(options)
        request.batch.CopyFrom(
            pb.BatchWork(input_file_id=input_file_id, endpoint=endpoint, max_running=max_running)
        )
        return await self.submit(request, timeout_s=timeout_s)

    async def submit_embedding(
        self,
        model: str,
        inputs: Sequence[str],
        *,
        dimensions: int = 0,
        purpose: EmbedPurpose.ValueType = EMBED_PURPOSE_UNSPECIFIED,
        truncate: bool = False,
        normalize: bool | None = None,
        timeout_s: float | None = None,
        **options: Unpack[JobOptions],
    ) -> pb.Job:
        """Stores texts to embed."""
        request = _request(options)
        request.embedding.CopyFrom(
            pb.EmbeddingWork(
                model=model,
                inputs=inputs,
                dimensions=dimensions,
                purpose=purpose,
                truncate=truncate,
                normalize=normalize,
            )
        )
        return await self.submit(request, timeout_s=timeout_s)

    async def submit_connector(
        self,
        connector: str,
        *,
        operation: str = "",
        arguments: Mapping[str, Any] | None = None,
        input_file_ids: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **options: Unpack[JobOptions],
    ) -> pb.Job:
        """Stores work for a back end outside of the mesh."""
        request = _request(options)
        request.connector.CopyFrom(
            pb.ConnectorWork(
                connector=connector,
                operation=operation,
                arguments_json=json.dumps(arguments or {}),
                input_file_ids=input_file_ids,
            )
        )
        return await self.submit(request, timeout_s=timeout_s)

    async def submit(
        self, request: pb.SubmitJobRequest, *, timeout_s: float | None = None
    ) -> pb.Job:
        """Stores a job, which is durable when this returns. Raises: JobExists, QueueFull."""
        response = await self._calls.unary(
            self._stub.SubmitJob, _named(request), timeout_s, safe=True
        )
        return response.job

    async def submit_all(
        self, requests: Iterable[pb.SubmitJobRequest], *, timeout_s: float | None = None
    ) -> list[pb.Job]:
        """Stores up to 1,000 jobs, all or none."""
        request = pb.SubmitJobsRequest(jobs=[_named(each) for each in requests])
        response = await self._calls.unary(self._stub.SubmitJobs, request, timeout_s, safe=True)
        return list(response.jobs)

    async def get(
        self, job_id: str, *, with_work: bool = False, timeout_s: float | None = None
    ) -> pb.GetJobResponse:
        """Returns a job with its attempts and its result. Raises: JobNotFound."""
        request = pb.GetJobRequest(job_id=job_id, with_work=with_work)
        return await self._calls.unary(self._stub.GetJob, request, timeout_s, safe=True)

    async def list(
        self,
        *,
        states: Collection[pb.JobState.ValueType] = (),
        kinds: Collection[pb.JobKind.ValueType] = (),
        queue: str = "",
        batch_id: str = "",
        principal: str = "",
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> list[pb.Job]:
        """Returns jobs, the newest first, without results; at most `limit`."""
        request = pb.ListJobsRequest(
            states=states,
            kinds=kinds,
            queue=queue,
            batch_id=batch_id,
            principal=principal,
            labels=labels,
            page_size=min(limit or 1000, 1000),
        )
        found: list[pb.Job] = []
        while True:
            page = await self._calls.unary(self._stub.ListJobs, request, timeout_s, safe=True)
            found.extend(page.jobs)
            if not page.next_page_token or (limit is not None and len(found) >= limit):
                return found[:limit]
            request.page_token = page.next_page_token

    async def cancel(self, job_id: str, *, timeout_s: float | None = None) -> pb.Job:
        """Cancels a job; one that runs is CANCELLING until its worker has stopped."""
        request = pb.CancelJobRequest(job_id=job_id)
        return (await self._calls.unary(self._stub.CancelJob, request, timeout_s, safe=True)).job

    async def retry(self, job_id: str, *, timeout_s: float | None = None) -> pb.Job:
        """Runs a job that failed or was cancelled again. Raises: IllegalState."""
        request = pb.RetryJobRequest(job_id=job_id)
        return (await self._calls.unary(self._stub.RetryJob, request, timeout_s, safe=False)).job

    async def watch(
        self, job_id: str, *, after_sequence: int = 0
    ) -> AsyncGenerator[pb.WatchJobResponse]:
        """Yields what happens to a job until it has ended, across lost connections."""
        while True:
            request = pb.WatchJobRequest(job_id=job_id, after_sequence=after_sequence)
            stream = self._calls.stream(self._stub.WatchJob, request, None, safe=True)
            try:
                async with aclosing(stream) as changes:
                    async for change in changes:
                        after_sequence = change.sequence
                        yield change
                        if change.HasField("job") and change.job.state in ENDED:
                            return
            except (DeadlineExceeded, ServiceUnavailable):
                pass  # it goes on without this connection
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def wait(self, job_id: str) -> pb.Job:
        """Returns a job with its result once it has ended, however it did."""
        async with aclosing(self.watch(job_id)) as changes:
            async for _ in changes:
                pass
        return (await self.get(job_id)).job

    async def read_batch(
        self, job_id: str, *, after: int = 0, follow: bool = False
    ) -> AsyncGenerator[pb.ReadBatchResponse]:
        """Yields the results of a batch in the order of its requests, from number `after` + 1.

        follow: waits for every request, across lost connections; else skips those that run.
        """
        while True:
            request = pb.ReadBatchRequest(job_id=job_id, after=after, follow=follow)
            stream = self._calls.stream(self._stub.ReadBatch, request, None, safe=True)
            try:
                async with aclosing(stream) as results:
                    async for result in results:
                        after = result.number
                        yield result
                return
            except (DeadlineExceeded, ServiceUnavailable):
                if not follow:
                    raise
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def get_queue(self, name: str, *, timeout_s: float | None = None) -> pb.Queue:
        """Returns one queue. Raises: QueueNotFound."""
        request = pb.GetQueueRequest(name=name)
        return (await self._calls.unary(self._stub.GetQueue, request, timeout_s, safe=True)).queue

    async def list_queues(self, *, timeout_s: float | None = None) -> Sequence[pb.Queue]:
        """Returns the queues, by name."""
        request = pb.ListQueuesRequest()
        return (
            await self._calls.unary(self._stub.ListQueues, request, timeout_s, safe=True)
        ).queues

    async def set_queue(
        self, name: str, settings: pb.QueueSettings, *, timeout_s: float | None = None
    ) -> pb.Queue:
        """Replaces the settings of a queue."""
        request = pb.SetQueueRequest(name=name, settings=settings)
        return (await self._calls.unary(self._stub.SetQueue, request, timeout_s, safe=True)).queue

    async def list_workers(self, *, timeout_s: float | None = None) -> Sequence[pb.Worker]:
        """Returns the connected workers and their back ends."""
        request = pb.ListWorkersRequest()
        return (
            await self._calls.unary(self._stub.ListWorkers, request, timeout_s, safe=True)
        ).workers


def _request(options: JobOptions) -> pb.SubmitJobRequest:
    request = pb.SubmitJobRequest(
        job_id=options.get("job_id", ""),
        queue=options.get("queue", ""),
        priority=options.get("priority", 0),
        attempt_timeout_s=options.get("attempt_timeout_s", 0),
        labels=options.get("labels", {}),
        retention_s=options.get("retention_s", 0),
    )
    if "max_attempts" in options:
        request.retry.max_attempts = options["max_attempts"]
    if "not_before" in options:
        request.not_before.CopyFrom(_timestamp(options["not_before"]))
    if "deadline" in options:
        request.deadline.CopyFrom(_timestamp(options["deadline"]))
    return request


def _named(request: pb.SubmitJobRequest) -> pb.SubmitJobRequest:
    """With an id, so that it can be repeated."""
    if request.job_id:
        return request
    named = pb.SubmitJobRequest()
    named.CopyFrom(request)
    named.job_id = f"job-{uuid.uuid4().hex}"
    return named


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
