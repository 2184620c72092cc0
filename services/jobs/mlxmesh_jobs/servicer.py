"""JobService: each method checks, calls and replies."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceServicer
from mlxmesh_jobs import convert, queues
from mlxmesh_jobs.batches.convert import to_read_response
from mlxmesh_jobs.batches.reading import read_batch
from mlxmesh_jobs.callers import Caller, unknown_job
from mlxmesh_jobs.clock import Clock
from mlxmesh_jobs.convert_submission import Submission, from_submitted, from_submitted_all
from mlxmesh_jobs.domain.jobs import Job, Kind
from mlxmesh_jobs.domain.ports import BatchStore, JobStore
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.queues import ShownQueue
from mlxmesh_jobs.submitting import Submitter
from mlxmesh_jobs.watching import PAGE, Watches
from mlxmesh_jobs.watching_jobs import follow_jobs
from mlxmesh_jobs.workers.workers import Workers
from mlxmesh_shared.errors import InvalidArgument, JobNotFound
from mlxmesh_shared.page_tokens import from_page_token, to_page_token

_Context = ServicerContext[Any, Any]
_DEFAULT_PAGE_SIZE = 100
_NEWEST = 2**62
MIN_WATCH_INTERVAL_MS = 100
_WATCH_INTERVAL_MS = 500
_DEFAULT_NEWEST = 200


class JobServicer(JobServiceServicer):
    """Requests have passed the contract's rules."""

    def __init__(
        self,
        *,
        store: JobStore,
        batches: BatchStore,
        submitter: Submitter,
        workers: Workers,
        observer: JobObserver,
        clock: Clock,
    ) -> None:
        self._store = store
        self._batches = batches
        self._submitter = submitter
        self._workers = workers
        self._observer = observer
        self._clock = clock
        self._watches = Watches(store)

    async def SubmitJob(
        self, request: pb.SubmitJobRequest, context: _Context
    ) -> pb.SubmitJobResponse:
        caller = convert.from_caller(context)
        job = from_submitted(request, self._submission(caller))
        [stored] = await self._submitter.submit(caller, [job])
        return pb.SubmitJobResponse(job=await self._message(stored))

    async def SubmitJobs(
        self, request: pb.SubmitJobsRequest, context: _Context
    ) -> pb.SubmitJobsResponse:
        caller = convert.from_caller(context)
        jobs = from_submitted_all(request, self._submission(caller))
        stored = await self._submitter.submit(caller, jobs)
        return pb.SubmitJobsResponse(jobs=[await self._message(each) for each in stored])

    async def GetJob(self, request: pb.GetJobRequest, context: _Context) -> pb.GetJobResponse:
        job = await self._own(request.job_id, context)
        attempts = await self._store.attempts(job.job_id)
        result = await self._store.result(job.job_id)
        message = convert.to_whole_job(job, attempts, result, await self._outputs(job))
        response = pb.GetJobResponse(job=message)
        if request.with_work and job.kind is not Kind.REQUEST:
            submitted = convert.to_submitted(await self._store.request(job.job_id))
            response.submitted.CopyFrom(submitted)
        return response

    async def ListJobs(self, request: pb.ListJobsRequest, context: _Context) -> pb.ListJobsResponse:
        caller = convert.from_caller(context)
        wanted = convert.from_list(request, caller)
        position = await self._position(request, context)
        if wanted is None:
            return pb.ListJobsResponse()
        size = request.page_size or _DEFAULT_PAGE_SIZE
        found = await self._store.list(wanted, before_key=position, limit=size + 1)
        page = found[:size]
        token = ""
        if len(found) > size:
            token = to_page_token([page[-1].number if request.batch_id else page[-1].key])
        messages = [await self._message(each) for each in page]
        return pb.ListJobsResponse(jobs=messages, next_page_token=token)

    async def CancelJob(
        self, request: pb.CancelJobRequest, context: _Context
    ) -> pb.CancelJobResponse:
        before = await self._own(request.job_id, context)
        job = await self._store.cancel(request.job_id)
        if job.state.ended and not before.state.ended:
            self._observer.job_ended(job)
        return pb.CancelJobResponse(job=await self._message(job))

    async def RetryJob(self, request: pb.RetryJobRequest, context: _Context) -> pb.RetryJobResponse:
        await self._own(request.job_id, context)
        job = await self._store.retry(request.job_id)
        return pb.RetryJobResponse(job=await self._message(job))

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchJobResponse]:
        job = await self._own(request.job_id, context)
        async with aclosing(self._watches.follow(job, request.after_sequence)) as changes:
            async for sequence, change in changes:
                if isinstance(change, Job):
                    message = await self._message(change)
                    yield pb.WatchJobResponse(sequence=sequence, job=message)
                else:
                    yield convert.to_output(sequence, change)

    async def WatchJobs(
        self, request: pb.WatchJobsRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchJobsResponse]:
        if 0 < request.interval_ms < MIN_WATCH_INTERVAL_MS:
            raise InvalidArgument(
                f"interval_ms must be 0 or at least {MIN_WATCH_INTERVAL_MS}", field="interval_ms"
            )
        caller = convert.from_caller(context)
        changes = follow_jobs(
            self._store,
            principal="" if caller.sees_all else caller.owner.principal,
            after=min(request.after_change, _NEWEST),
            newest=request.newest or _DEFAULT_NEWEST,
            interval_s=(request.interval_ms or _WATCH_INTERVAL_MS) / 1000,
        )
        async with aclosing(changes):
            async for one in changes:
                yield pb.WatchJobsResponse(
                    jobs=[await self._message(job) for job in one.jobs],
                    change=one.change,
                    more=one.more,
                )

    async def ReadBatch(
        self, request: pb.ReadBatchRequest, context: _Context
    ) -> AsyncGenerator[pb.ReadBatchResponse]:
        job = await self._own(request.job_id, context)
        if job.kind is not Kind.BATCH:
            raise InvalidArgument("the job is no batch", field="job_id")
        items = read_batch(
            self._store, self._batches, job.job_id, after=request.after, follow=request.follow
        )
        async with aclosing(items):
            async for item in items:
                yield to_read_response(item)

    async def GetQueue(self, request: pb.GetQueueRequest, context: _Context) -> pb.GetQueueResponse:
        queue = queues.one(await self._queues(), request.name)
        return pb.GetQueueResponse(queue=self._to_queue(queue))

    async def ListQueues(
        self, request: pb.ListQueuesRequest, context: _Context
    ) -> pb.ListQueuesResponse:
        return pb.ListQueuesResponse(queues=map(self._to_queue, await self._queues()))

    async def SetQueue(self, request: pb.SetQueueRequest, context: _Context) -> pb.SetQueueResponse:
        await self._store.set_queue(request.name, convert.from_settings(request.settings))
        queue = queues.one(await self._queues(), request.name)
        return pb.SetQueueResponse(queue=self._to_queue(queue))

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: _Context
    ) -> pb.ListWorkersResponse:
        return pb.ListWorkersResponse(workers=map(convert.to_worker, self._workers.facts()))

    def _submission(self, caller: Caller) -> Submission:
        return Submission(
            owner=caller.owner,
            connectors=self._workers.connectors(),
            now_ms=self._clock(),
        )

    async def _own(self, job_id: str, context: _Context) -> Job:
        """A job that the caller may see. Raises: JobNotFound."""
        caller = convert.from_caller(context)
        try:
            return caller.check(await self._store.get(job_id))
        except JobNotFound:
            raise unknown_job(job_id) from None

    async def _message(self, job: Job) -> pb.Job:
        """A job as it is shown; an ended batch with its files."""
        has_files = job.kind is Kind.BATCH and job.state.ended
        return convert.to_job(job, await self._store.result(job.job_id) if has_files else b"")

    async def _position(self, request: pb.ListJobsRequest, context: _Context) -> int:
        """After which key, or number within a batch, the page begins."""
        if request.after_job_id:
            if request.page_token:
                raise InvalidArgument(
                    "after_job_id must not be set together with page_token", field="after_job_id"
                )
            job = await self._own(request.after_job_id, context)
            return job.number if request.batch_id else job.key
        [position] = from_page_token(request.page_token, (0 if request.batch_id else _NEWEST,))
        return int(position)

    async def _outputs(self, job: Job) -> Sequence[bytes]:
        """The messages of its stream so far."""
        found: list[bytes] = []
        after = 0
        while job.outputs:
            page = await self._store.outputs(job.job_id, after_sequence=after, limit=PAGE)
            found += [output for _, output in page]
            if len(page) < PAGE:
                break
            after = page[-1][0]
        return found

    async def _queues(self) -> list[ShownQueue]:
        return queues.shown(await self._store.queues(), self._workers.facts())

    def _to_queue(self, queue: ShownQueue) -> pb.Queue:
        return convert.to_queue(
            queue.counts, workers=queue.workers, blocked=queue.blocked, now_ms=self._clock()
        )
