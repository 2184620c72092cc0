"""Jobs for ComfyUI through the real jobs service and real workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.file_pb2 import ReadFileRequest
from mlxmesh.job.v1.file_pb2_grpc import FileServiceStub
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import WorkerSettings
from mlxmesh_worker.assembly import open_worker
from mlxmesh_worker.connectors.loading import load_connectors
from tests.fakes.comfyui_server import FakeComfyUI, comfyui_server
from tests.fakes.comfyui_workflows import workflow
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.service_process import quiet_process
from tests.integration.worker.test_real_jobs import OF_ADA, jobs_service


@dataclass
class Rig:
    server: FakeComfyUI
    registry: InMemoryRegistry
    data_dir: Path
    jobs: JobServiceStub
    files: FileServiceStub

    async def submit(self, prompt: dict[str, Any], job_id: str = "job-1") -> None:
        work = pb.ConnectorWork(
            connector="comfyui_websocket", arguments_json=json.dumps({"prompt": prompt})
        )
        request = pb.SubmitJobRequest(job_id=job_id, connector=work)
        await self.jobs.SubmitJob(request, metadata=OF_ADA)

    async def until(self, condition: Callable[[pb.Job], bool]) -> pb.Job:
        request = pb.GetJobRequest(job_id="job-1")
        async with asyncio.timeout(40):
            while not condition(job := (await self.jobs.GetJob(request, metadata=OF_ADA)).job):
                await asyncio.sleep(0.02)
        return job

    async def ended(self, state: pb.JobState.ValueType) -> pb.Job:
        return await self.until(lambda job: job.state == state)

    @asynccontextmanager
    async def worker(self, worker_id: str) -> AsyncIterator[None]:
        settings = WorkerSettings(
            data_dir=self.data_dir, back_ends=(f"comfyui_websocket={self.server.url}",)
        )
        instance = Instance("worker", worker_id, "127.0.0.1:1", 1)
        async with AsyncExitStack() as stack:
            process = quiet_process(settings, "worker", worker_id)
            types = load_connectors(["comfyui_websocket"])
            worker = await open_worker(stack, process, self.registry, types)
            await self.registry.register(instance)
            stack.push_async_callback(self.registry.deregister, instance)
            async with worker.running():
                yield


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    registry = InMemoryRegistry()
    async with (
        comfyui_server() as server,
        jobs_service(registry, tmp_path) as address,
        open_channel(address) as channel,
    ):
        yield Rig(server, registry, tmp_path, JobServiceStub(channel), FileServiceStub(channel))


async def test_an_image_becomes_a_file_of_the_owner(rig: Rig) -> None:
    async with rig.worker("worker-1"):
        await rig.submit(workflow())
        job = await rig.ended(pb.JOB_STATE_COMPLETED)
    (made,) = job.connector.files
    read = rig.files.ReadFile(ReadFileRequest(file_id=made.file_id), metadata=OF_ADA)
    assert b"".join([each.data async for each in read]) == rig.server.options.image
    assert made.media_type == "image/png"
    assert json.loads(job.connector.result_json)["outputs"][0]["file_id"] == made.file_id


async def test_steps_are_the_progress_of_the_job(rig: Rig) -> None:
    rig.server.options.step_s = 0.05
    async with rig.worker("worker-1"):
        await rig.submit(workflow(steps=60))
        job = await rig.until(lambda job: job.progress.done > 5)
        assert (job.progress.unit, job.progress.total) == ("steps", 60)
        assert job.progress.text == "KSampler"
        await rig.ended(pb.JOB_STATE_COMPLETED)


async def test_another_worker_follows_the_prompt_of_a_lost_one(rig: Rig) -> None:
    rig.server.options.step_s = 0.05
    async with rig.worker("worker-1"):
        await rig.submit(workflow(steps=100))
        await rig.until(lambda job: job.progress.done > 2)
    async with rig.worker("worker-2"):
        job = await rig.ended(pb.JOB_STATE_COMPLETED)
    assert job.attempt == 2
    assert len(rig.server.started) == len(rig.server.executed) == 1


async def test_a_cancelled_job_is_interrupted_at_comfyui(rig: Rig) -> None:
    rig.server.options.step_s = 0.05
    async with rig.worker("worker-1"):
        await rig.submit(workflow(steps=1_000))
        await rig.until(lambda job: job.progress.done > 2)
        await rig.jobs.CancelJob(pb.CancelJobRequest(job_id="job-1"), metadata=OF_ADA)
        await rig.ended(pb.JOB_STATE_CANCELLED)
        async with asyncio.timeout(30):
            # It stops at its next step.
            while rig.server.running:
                await asyncio.sleep(0.01)
    assert not rig.server.executed


async def test_a_wrong_workflow_fails_the_job_at_once(rig: Rig) -> None:
    async with rig.worker("worker-1"):
        await rig.submit(workflow(sampler_name="eulr"))
        job = await rig.ended(pb.JOB_STATE_FAILED)
    assert job.attempt == 1
    assert "node 3 (KSampler)" in job.failure.message
