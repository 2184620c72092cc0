"""What workers rely on: one suite for the jobs service and for the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc import aio

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_jobs.assembly import SERVICE_NAMES, Surroundings, open_jobs
from mlxmesh_shared.errors import MeshError, ReaderReplaced
from mlxmesh_shared.events import discard_event
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import JobsSettings
from tests.fakes.job_service import FakeJobService
from tests.fakes.job_worker import (
    WAIT_S,
    ScriptedWorker,
    completed,
    connected,
    failed,
    outputs,
    progress,
    stopped,
)
from tests.fakes.registry import InMemoryRegistry

GENERATION = GenerateRequest(model="chat@3", prompt="x")


@dataclass
class Service:
    """An implementation, and how a test uses it beside its worker."""

    channel: aio.Channel
    submit: Callable[[str], Awaitable[None]]
    cancel: Callable[[str], Awaitable[None]]
    lose: Callable[[ScriptedWorker], Awaitable[None]]
    """The worker is found to be lost."""
    texts: Callable[[str], Awaitable[Sequence[str]]]
    """Of the messages that are stored of a job's stream."""
    state: Callable[[str], Awaitable[str]]

    def worker(self, worker_id: str = "worker-1", session: str = "s1") -> ScriptedWorker:
        return ScriptedWorker(self.channel, worker_id, session=session)

    async def until(self, job_id: str, state: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while await self.state(job_id) != state:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def in_memory(_: Path) -> AsyncIterator[Service]:
    async with (
        FakeJobService().running() as served,
        open_channel(served.instance.address) as channel,
    ):
        jobs = served.jobs

        async def submit(job_id: str) -> None:
            jobs.submit(job_id, pb.JOB_KIND_GENERATION, generation=GENERATION)

        async def cancel(job_id: str) -> None:
            jobs.cancel(job_id)

        async def lose(worker: ScriptedWorker) -> None:
            await worker.kill()
            jobs.end_session(worker.session)

        async def texts(job_id: str) -> Sequence[str]:
            return [each.delta.text for each in jobs.jobs[job_id].outputs]

        async def state(job_id: str) -> str:
            return jobs.jobs[job_id].state

        yield Service(channel, submit, cancel, lose, texts, state)


@asynccontextmanager
async def real(data_dir: Path) -> AsyncIterator[Service]:
    settings = JobsSettings(data_dir=data_dir, lease_s=10, reconnect_s=0.3)
    registry = InMemoryRegistry()
    async with AsyncExitStack() as stack:
        around = Surroundings(
            instance_id="jobs-1", publish=discard_event, open_channel=open_channel
        )
        jobs = await open_jobs(stack, settings, around)
        server = MeshServer(services=jobs.services(), service_names=SERVICE_NAMES)
        address = await server.start()
        await stack.enter_async_context(jobs.running(registry))
        stack.push_async_callback(server.drain, 0, 0)
        channel = await stack.enter_async_context(open_channel(address))
        stub = JobServiceStub(channel)
        for worker_id in ("worker-1", "worker-2"):
            await registry.register(Instance("worker", worker_id, "127.0.0.1:1", 1))

        async def submit(job_id: str) -> None:
            retry = pb.RetryPolicy(initial_delay_ms=1, max_delay_ms=1)
            await stub.SubmitJob(
                pb.SubmitJobRequest(job_id=job_id, generation=GENERATION, retry=retry)
            )

        async def cancel(job_id: str) -> None:
            await stub.CancelJob(pb.CancelJobRequest(job_id=job_id))

        async def lose(worker: ScriptedWorker) -> None:
            await registry.deregister(Instance("worker", worker.worker_id, "127.0.0.1:1", 1))
            await worker.kill()

        async def texts(job_id: str) -> Sequence[str]:
            stored = await jobs.store.outputs(job_id, after_sequence=0, limit=1000)
            return [GenerateResponse.FromString(each).delta.text for _, each in stored]

        async def state(job_id: str) -> str:
            job = (await stub.GetJob(pb.GetJobRequest(job_id=job_id))).job
            return pb.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()

        yield Service(channel, submit, cancel, lose, texts, state)


@pytest.fixture(params=[in_memory, real], ids=["in_memory", "real"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with request.param(tmp_path) as running:
        yield running


async def test_an_attempt_is_given_and_its_news_are_confirmed(service: Service) -> None:
    async with connected(service.worker()) as worker:
        assert worker.welcome.lease_ms >= 4 * worker.welcome.heartbeat_ms > 0
        await service.submit("job-1")
        given = await worker.next()
        assert (given.id.job_id, given.id.attempt, given.outputs) == ("job-1", 1, 0)
        assert (given.generation.prompt, given.kind) == ("x", pb.JOB_KIND_GENERATION)
        assert not given.HasField("position")
        await worker.report(progress(given, 0.5), outputs(given, 1, "", "a", "b"))
        assert await service.texts("job-1") == ["", "a", "b"]
        await worker.report(completed(given))
        assert await service.state("job-1") == "completed"


async def test_heartbeats_are_confirmed(service: Service) -> None:
    async with connected(service.worker()) as worker:
        await worker.report()


async def test_no_more_is_given_than_there_are_slots(service: Service) -> None:
    async with connected(service.worker()) as worker:
        for number in range(worker.slots + 2):
            await service.submit(f"job-{number}")
        given = [await worker.next() for _ in range(worker.slots)]
        await worker.report()
        await asyncio.sleep(0.1)
        assert worker.assigned.empty()
        await worker.report(completed(given[0]))
        await worker.next()


async def test_messages_that_are_stored_are_not_stored_again(service: Service) -> None:
    async with connected(service.worker()) as worker:
        await service.submit("job-1")
        given = await worker.next()
        await worker.report(outputs(given, 1, "", "a", "b"))
        await worker.report(outputs(given, 2, "again", "again", "c"))
        assert await service.texts("job-1") == ["", "a", "b", "c"]


async def test_a_later_attempt_hears_where_the_stream_stands(service: Service) -> None:
    first, second = service.worker(), service.worker("worker-2", "s2")
    async with connected(first):
        await service.submit("job-1")
        given = await first.next()
        told = outputs(given, 1, "", "a", "b")
        await first.report(told)
        # All of it is stored: it changes nothing.
        await first.report(outputs(given, 1, "", "a"))
        await service.lose(first)
        async with connected(second):
            again = await second.next()
            assert (again.id.attempt, again.outputs) == (2, 3)
            assert again.position == told.outputs.position
            assert (again.started.model, again.started.model_version) == ("chat", 3)
            await second.report(outputs(again, 4, "c"), completed(again))
        assert await service.texts("job-1") == ["", "a", "b", "c"]


async def test_an_ended_session_begins_with_nothing(service: Service) -> None:
    first, second = service.worker(), service.worker("worker-2", "s2")
    async with connected(first):
        await service.submit("job-1")
        given = await first.next()
        await service.lose(first)
        async with connected(second):
            again = await second.next()
            try:
                await first.connect()
                assert await asyncio.wait_for(first.fenced.get(), WAIT_S) == "job-1"
            except MeshError as error:
                assert error.reason == "ILLEGAL_STATE"  # noqa: PT017
                first.session = "s3"
                await first.connect()
            await first.report(completed(given))
            assert await service.state("job-1") == "running"
            await second.report(completed(again))
            assert await service.state("job-1") == "completed"


async def test_attempts_go_on_on_another_stream(service: Service) -> None:
    async with connected(service.worker()) as worker:
        await service.submit("job-1")
        given = await worker.next()
        await worker.kill()
        await worker.connect()
        assert not list(worker.welcome.fenced)
        await worker.report(completed(given))
        assert await service.state("job-1") == "completed"


async def test_a_second_stream_replaces_the_first(service: Service) -> None:
    async with connected(service.worker()) as first, connected(service.worker()) as second:
        assert isinstance(await first.wait_ended(), ReaderReplaced)
        await second.report()


async def test_an_assignment_that_did_not_arrive_is_given_again(service: Service) -> None:
    async with connected(service.worker()) as worker:
        await service.submit("job-1")
        await worker.next()
        await worker.kill()
        worker.running.clear()
        await worker.connect()
        again = await worker.next()
        assert again.id.attempt == 2
        await worker.report(completed(again))
        assert await service.state("job-1") == "completed"


async def test_a_cancellation_is_told_and_ends_with_stopped(service: Service) -> None:
    async with connected(service.worker()) as worker:
        await service.submit("job-1")
        given = await worker.next()
        await service.cancel("job-1")
        assert await asyncio.wait_for(worker.cancelled.get(), WAIT_S) == "job-1"
        await worker.report(stopped(given))
        assert await service.state("job-1") == "cancelled"


async def test_what_is_given_back_runs_elsewhere(service: Service) -> None:
    async with connected(service.worker()) as first:
        await service.submit("job-1")
        given = await first.next()
        first.leaving = True
        await first.report(stopped(given))
        async with connected(service.worker("worker-2", "s2")) as second:
            again = await second.next()
            assert again.id.attempt == 2
            await second.report(completed(again))
        assert first.assigned.empty()


@pytest.mark.parametrize(("fault", "state"), [(1, "failed"), (2, "running"), (3, "running")])
async def test_the_fault_decides_what_follows(service: Service, fault: int, state: str) -> None:
    async with connected(service.worker()) as worker:
        await service.submit("job-1")
        await worker.report(failed(await worker.next(), fault))
        await service.until("job-1", state)
