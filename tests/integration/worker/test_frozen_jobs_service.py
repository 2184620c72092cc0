"""A jobs service is stopped (SIGSTOP) under a worker, all real processes: no output is lost."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry.port import Registry
from mlxmesh_shared.rpc.channels import open_channel
from tests.integration.generation.harness import Mesh, running_mesh
from tests.integration.jobs.test_process import registered, registry_of, running
from tests.integration.worker.harness import generation, generation_instance
from tests.integration.worker.test_generation import text_of, tokens_of
from tests.integration.worker.test_process import worker_process
from tests.integration.worker.test_real_jobs import OF_ADA

TIMEOUT_S = 60
LEASE_S = 2.0
LEASES = {"MLXMESH_JOBS_LEASE_S": str(LEASE_S), "MLXMESH_JOBS_RECONNECT_S": "1"}
JOBS = ("job-1", "job-2", "job-3")


@dataclass
class Rig:
    mesh: Mesh
    registry: Registry
    data_dir: Path
    stack: AsyncExitStack
    expected: list[GenerateResponse]

    async def jobs_service(self) -> tuple[Process, JobServiceStub]:
        process = await self.stack.enter_async_context(running(self.data_dir, **LEASES))
        instance = await registered(self.registry, process)
        channel = await self.stack.enter_async_context(open_channel(instance.address))
        return process, JobServiceStub(channel)

    async def start_jobs(self, jobs: JobServiceStub) -> None:
        """Returns once a worker has stored some output of each; the engine holds the rest."""
        for job_id in JOBS:
            await jobs.SubmitJob(
                pb.SubmitJobRequest(job_id=job_id, generation=request()), metadata=OF_ADA
            )
        await self.stack.enter_async_context(worker_process(self.data_dir))
        async with asyncio.timeout(TIMEOUT_S):
            while not all([(await job_of(jobs, each)).progress.done > 20 for each in JOBS]):
                await asyncio.sleep(0.02)
        self.mesh.engine.may_step.clear()
        assert {(await job_of(jobs, each)).state for each in JOBS} == {pb.JOB_STATE_RUNNING}

    async def check_outputs(self, jobs: JobServiceStub) -> list[pb.Job]:
        """Waits for the ends; each output is stored once and is the expected one."""
        return [await self._checked(jobs, job_id) for job_id in JOBS]

    async def _checked(self, jobs: JobServiceStub, job_id: str) -> pb.Job:
        async with asyncio.timeout(TIMEOUT_S):
            while (job := await job_of(jobs, job_id)).state != pb.JOB_STATE_COMPLETED:
                assert job.state in (pb.JOB_STATE_RUNNING, pb.JOB_STATE_WAITING)
                await asyncio.sleep(0.05)
        call = jobs.WatchJob(pb.WatchJobRequest(job_id=job_id), metadata=OF_ADA)
        stored = [each.output async for each in call if each.HasField("output")]
        assert tokens_of(stored) == tokens_of(self.expected) == list(job.generation.token_ids)
        assert text_of(stored) == text_of(self.expected)
        return job


@pytest.fixture
async def rig(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Rig]:
    async with (
        running_mesh(tmp_path / "mesh", tokenizer_dir) as mesh,
        registry_of(tmp_path) as registry,
        AsyncExitStack() as stack,
    ):
        expected = await mesh.collect(request())
        mesh.engine.options.step_s = 0.01
        await registry.register(generation_instance(mesh.server.address))
        yield Rig(mesh, registry, tmp_path, stack, expected)


def request() -> GenerateRequest:
    return generation(max_tokens=600)


async def job_of(jobs: JobServiceStub, job_id: str) -> pb.Job:
    return (await jobs.GetJob(pb.GetJobRequest(job_id=job_id), metadata=OF_ADA)).job


async def freeze(process: Process, other: JobServiceStub) -> None:
    """Stops a jobs service while it holds no lock of the database that both use."""
    for number in range(20):
        process.send_signal(signal.SIGSTOP)
        probe = pb.SubmitJobRequest(job_id=f"probe-{number}", generation=request())
        probe.not_before.GetCurrentTime()
        probe.not_before.seconds += 3600
        try:
            await other.SubmitJob(probe, metadata=OF_ADA, timeout=1)
        except MeshError:
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError("it holds the lock at all times")


async def test_a_worker_moves_to_another_jobs_service(rig: Rig) -> None:
    frozen, first = await rig.jobs_service()
    await rig.start_jobs(first)
    _, second = await rig.jobs_service()
    await freeze(frozen, second)
    rig.mesh.engine.may_step.set()
    try:
        await rig.check_outputs(second)
    finally:
        frozen.send_signal(signal.SIGCONT)
    # What it believed when it was stopped has no effect: it says what is stored.
    await rig.check_outputs(first)


@pytest.mark.parametrize("frozen_s", [LEASE_S / 4, 2 * LEASE_S], ids=["briefly", "past-its-lease"])
async def test_a_worker_waits_for_the_only_jobs_service(rig: Rig, frozen_s: float) -> None:
    process, jobs = await rig.jobs_service()
    await rig.start_jobs(jobs)
    process.send_signal(signal.SIGSTOP)
    rig.mesh.engine.may_step.set()
    await asyncio.sleep(frozen_s)
    process.send_signal(signal.SIGCONT)
    for job in await rig.check_outputs(jobs):
        assert {each.recovery for each in job.attempts[:-1]} <= {"worker_lost"}
