"""Workers with the real jobs service and the real generation service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.file_pb2 import ReadFileRequest
from mlxmesh.job.v1.file_pb2_grpc import FileServiceStub
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_jobs.assembly import SERVICE_NAMES, Surroundings, open_jobs
from mlxmesh_shared.events import discard_event
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import JobsSettings, WorkerSettings
from mlxmesh_worker.assembly import Worker, open_worker
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.service_process import quiet_process
from tests.integration.generation.harness import Mesh, generation_service, running_mesh
from tests.integration.worker.harness import generation_instance
from tests.integration.worker.test_connectors import Machines, Painter, PainterType
from tests.integration.worker.test_generation import text_of, tokens_of

OF_ADA = (
    ("mlxmesh-owner", "user:ada#"),
    ("mlxmesh-caller", "user:ada"),
    ("mlxmesh-role", "client"),
    ("mlxmesh-user", "ada"),
)


@dataclass
class Rig:
    mesh: Mesh
    data_dir: Path
    jobs: JobServiceStub
    files: FileServiceStub

    async def submit(self, **work: Any) -> None:
        request = pb.SubmitJobRequest(job_id="job-1", **work)
        await self.jobs.SubmitJob(request, metadata=OF_ADA)

    async def job(self) -> pb.Job:
        request = pb.GetJobRequest(job_id="job-1")
        return (await self.jobs.GetJob(request, metadata=OF_ADA)).job

    async def until(self, condition: Callable[[pb.Job], bool]) -> pb.Job:
        async with asyncio.timeout(30):
            while not condition(job := await self.job()):
                await asyncio.sleep(0.02)
        return job

    async def ended(self, state: pb.JobState.ValueType = pb.JOB_STATE_COMPLETED) -> pb.Job:
        return await self.until(lambda job: job.state == state)

    async def watched(self) -> list[GenerateResponse]:
        """The messages of the job's stream."""
        call = self.jobs.WatchJob(pb.WatchJobRequest(job_id="job-1"), metadata=OF_ADA)
        return [each.output async for each in call if each.HasField("output")]

    @asynccontextmanager
    async def worker(self, worker_id: str = "worker-1", **connectors: Any) -> AsyncIterator[Worker]:
        """A worker that the registry lists; it is killed at the end."""
        settings = WorkerSettings(
            data_dir=self.data_dir, back_ends=("paint_http=one:1",) if connectors else ()
        )
        instance = Instance("worker", worker_id, "127.0.0.1:1", 1)
        async with AsyncExitStack() as stack:
            process = quiet_process(settings, "worker", worker_id)
            worker = await open_worker(stack, process, self.mesh.registry, connectors)
            await self.mesh.registry.register(instance)
            stack.push_async_callback(self.mesh.registry.deregister, instance)
            async with worker.running():
                yield worker


@asynccontextmanager
async def jobs_service(
    registry: InMemoryRegistry, data_dir: Path, instance_id: str = "jobs-1"
) -> AsyncIterator[str]:
    """A jobs service; several in one directory share a database."""
    settings = JobsSettings(data_dir=data_dir, lease_s=5, reconnect_s=0.3)
    async with AsyncExitStack() as stack:
        around = Surroundings(
            instance_id=instance_id, publish=discard_event, open_channel=open_channel
        )
        jobs = await open_jobs(stack, settings, around)
        server = MeshServer(services=jobs.services(), service_names=SERVICE_NAMES)
        address = await server.start()
        await stack.enter_async_context(jobs.running(registry))
        instance = Instance("jobs", instance_id, address, 1)
        await registry.register(instance)
        stack.push_async_callback(registry.deregister, instance)
        stack.push_async_callback(server.drain, 0, 0)
        yield address


@pytest.fixture
async def rig(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Rig]:
    async with (
        running_mesh(tmp_path, tokenizer_dir) as mesh,
        jobs_service(mesh.registry, tmp_path) as address,
        open_channel(address) as channel,
    ):
        await mesh.registry.register(generation_instance(mesh.server.address))
        yield Rig(mesh, tmp_path, JobServiceStub(channel), FileServiceStub(channel))


def generation(tokens: int = 200) -> GenerateRequest:
    sampling = Sampling(seed=3, temperature=1)
    return GenerateRequest(model="pocket", prompt="x", max_tokens=tokens, sampling=sampling)


async def test_a_generation_runs_and_is_read_while_it_does(rig: Rig) -> None:
    expected = await rig.mesh.collect(generation())
    async with rig.worker():
        await rig.submit(generation=generation())
        watched = await rig.watched()
        job = await rig.ended()
    assert text_of(watched) == text_of(expected) == job.generation.text
    assert tokens_of(watched) == tokens_of(expected) == list(job.generation.token_ids)
    assert job.generation.finished.total_usage.completion_tokens == 200
    assert (job.attempt, job.progress.done) == (1, 200)


async def test_a_killed_worker_is_replaced_within_seconds(rig: Rig, tmp_path: Path) -> None:
    """First the worker, then the generation instance that ran it."""
    expected = await rig.mesh.collect(generation(400))
    rig.mesh.engine.options.step_s = 0.005
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(rig.worker("worker-1"))
        await rig.submit(generation=generation(400))
        await rig.until(lambda job: job.progress.done > 50)
        await stack.aclose()
        await stack.enter_async_context(rig.worker("worker-2"))
        await rig.until(lambda job: job.progress.done > 150)
        await stack.aclose()
    async with generation_service(rig.mesh.registry, tmp_path / "other") as server:
        await rig.mesh.registry.deregister(generation_instance(""))
        await rig.mesh.registry.register(generation_instance(server.address, "generation-2"))
        async with rig.worker("worker-3"):
            job = await rig.ended()
            watched = await rig.watched()
    assert tokens_of(watched) == tokens_of(expected)
    assert text_of(watched) == text_of(expected) == job.generation.text
    assert job.attempt == 3
    assert [each.recovery for each in job.attempts] == ["worker_lost", "worker_lost", ""]


async def test_attempts_outlive_their_jobs_service(rig: Rig, tmp_path: Path) -> None:
    expected = await rig.mesh.collect(generation(400))
    rig.mesh.engine.options.step_s = 0.005
    registry = rig.mesh.registry
    (first,) = await registry.resolve("jobs")
    await registry.deregister(first)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(jobs_service(registry, tmp_path, "jobs-0"))
        async with rig.worker() as worker:
            await rig.submit(generation=generation(400))
            await rig.until(lambda job: job.progress.done > 50)
            await registry.register(first)
            session = worker.link.session
            await stack.aclose()
            job = await rig.ended()
            assert worker.link.session == session
    assert list(job.generation.token_ids) == tokens_of(expected)
    assert job.attempt == 1


async def test_a_cancelled_job_frees_the_engine(rig: Rig) -> None:
    rig.mesh.engine.options.step_s = 0.01
    async with rig.worker():
        await rig.submit(generation=generation(900))
        await rig.until(lambda job: job.progress.done > 20)
        await rig.jobs.CancelJob(pb.CancelJobRequest(job_id="job-1"), metadata=OF_ADA)
        await rig.ended(pb.JOB_STATE_CANCELLED)
        async with asyncio.timeout(30):
            while rig.mesh.engine.sequences:
                await asyncio.sleep(0.01)


async def test_a_job_that_was_cancelled_runs_again_from_its_beginning(rig: Rig) -> None:
    expected = await rig.mesh.collect(generation(300))
    rig.mesh.engine.options.step_s = 0.005
    async with rig.worker():
        await rig.submit(generation=generation(300))
        await rig.until(lambda job: job.progress.done > 20)
        await rig.jobs.CancelJob(pb.CancelJobRequest(job_id="job-1"), metadata=OF_ADA)
        await rig.ended(pb.JOB_STATE_CANCELLED)
        await rig.jobs.RetryJob(pb.RetryJobRequest(job_id="job-1"), metadata=OF_ADA)
        job = await rig.ended()
        watched = await rig.watched()
    assert list(job.generation.token_ids) == tokens_of(expected) == tokens_of(watched)
    assert text_of(watched) == text_of(expected)


async def test_what_a_back_end_made_is_a_file_of_the_owner(rig: Rig) -> None:
    machines = Machines()
    machines.may_end.set()
    work = pb.ConnectorWork(connector="paint_http", arguments_json='{"colour": "red"}')
    async with rig.worker(paint_http=FilePainterType(machines)):
        await rig.submit(connector=work)
        job = await rig.ended()
    (made,) = job.connector.files
    read = rig.files.ReadFile(ReadFileRequest(file_id=made.file_id), metadata=OF_ADA)
    assert b"".join([each.data async for each in read]) == b"red" * 700_000
    assert (made.name, made.media_type) == ("picture.png", "image/png")


class FilePainter(Painter):
    """Makes a file."""

    async def run(self, task: Any, reports: Any) -> Any:
        outcome = await super().run(task, reports)

        async def content() -> AsyncIterator[bytes]:
            yield outcome.result["colour"].encode() * 700_000

        made = await reports.store("picture.png", "image/png", content())
        return type(outcome)(result={}, files=[made])


@dataclass(frozen=True)
class FilePainterType(PainterType):
    """Satisfies ConnectorType."""

    def __call__(self, target: Any) -> FilePainter:
        return FilePainter(self.machines, target)
