"""Jobs of a whole mesh over killed and frozen processes: each output is the undisturbed one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import MeshSettings
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

JOBS = 4
# A busy machine may keep a worker from its processor for a while.
LEASE_S = 4


@pytest.fixture(scope="module")
def own_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    env = {"MLXMESH_JOBS_LEASE_S": str(LEASE_S), "MLXMESH_JOBS_RECONNECT_S": "0.5"}
    mesh = start_mesh(tmp_path_factory.mktemp("jobs"), env=env)
    assert mesh.command("jobs", "submit", "Hi", "--max-tokens", "1", "--wait").returncode == 0
    yield mesh
    stop_mesh(mesh)


@pytest.fixture
async def channel(own_mesh: RunningMesh) -> AsyncIterator[aio.Channel]:
    async with open_channel(own_mesh.address) as channel:
        yield channel


def request(number: int) -> GenerateRequest:
    return GenerateRequest(
        model="pocket",
        prompt=f"Story {number}:",
        max_tokens=500,
        ignore_eos=True,
        sampling=Sampling(seed=number, temperature=1),
    )


async def undisturbed(channel: aio.Channel) -> list[list[int]]:
    stub = GenerationServiceStub(channel)

    async def tokens(number: int) -> list[int]:
        return tokens_of([each async for each in stub.Generate(request(number))])

    # A process that the test before has killed may still be on its way.
    each = [until_served(lambda number=number: tokens(number)) for number in range(JOBS)]
    return await asyncio.gather(*each)


def tokens_of(messages: list[GenerateResponse]) -> list[int]:
    return [token for each in messages for token in each.delta.token_ids]


class Submitted:
    """Jobs that run, under ids of their test."""

    def __init__(self, channel: aio.Channel, name: str) -> None:
        self._stub = JobServiceStub(channel)
        self._ids = [f"{name}-{number}" for number in range(JOBS)]

    async def begin(self) -> None:
        """Returns once each has a few tokens."""
        for number, job_id in enumerate(self._ids):
            submit = pb.SubmitJobRequest(job_id=job_id, generation=request(number))
            await until_served(lambda submit=submit: self._stub.SubmitJob(submit))
        for job_id in self._ids:
            await self.until(job_id, lambda job: job.progress.done > 10)

    async def end(self) -> list[pb.Job]:
        """Returns once all have completed."""
        completed = [self.until(job_id, _completed) for job_id in self._ids]
        return await asyncio.gather(*completed)

    async def streams(self) -> list[list[int]]:
        """The tokens of each stored stream."""

        async def watched(job_id: str) -> list[int]:
            call = self._stub.WatchJob(pb.WatchJobRequest(job_id=job_id))
            return tokens_of([each.output async for each in call if each.HasField("output")])

        return await asyncio.gather(*map(watched, self._ids))

    async def until(self, job_id: str, condition: Callable[[pb.Job], bool]) -> pb.Job:
        async with asyncio.timeout(60):
            while not condition(job := await self._job(job_id)):
                await asyncio.sleep(0.05)
        return job

    async def _job(self, job_id: str) -> pb.Job:
        get = pb.GetJobRequest(job_id=job_id)
        return (await until_served(lambda: self._stub.GetJob(get))).job


async def until_served(call: Callable[[], Any]) -> Any:
    """Repeats a call while the jobs service is started again."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(ServiceUnavailable):
                return await call()
            await asyncio.sleep(0.1)


def _completed(job: pb.Job) -> bool:
    assert job.state != pb.JOB_STATE_FAILED, job.failure
    return job.state == pb.JOB_STATE_COMPLETED


@contextlib.contextmanager
def another_worker(mesh: RunningMesh) -> Iterator[None]:
    """One that no launcher knows."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLXMESH_")}
    arguments = [sys.executable, "-m", "mlxmesh_worker", "--data-dir", str(mesh.data_dir)]
    process = subprocess.Popen(arguments, env=own, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


async def pid_of(data_dir: Path, service: str) -> int:
    registry: Any = open_registry(MeshSettings(data_dir=data_dir))
    try:
        (instance, *_) = await registry.resolve(service)
        return instance.pid
    finally:
        await registry.close()


@pytest.mark.parametrize("service", ["worker", "jobs", "generation"])
async def test_jobs_survive_a_killed_process(
    own_mesh: RunningMesh, channel: aio.Channel, service: str
) -> None:
    expected = await undisturbed(channel)
    jobs = Submitted(channel, service)
    await jobs.begin()
    os.kill(await pid_of(own_mesh.data_dir, service), signal.SIGKILL)
    ended = await jobs.end()
    assert [list(job.generation.token_ids) for job in ended] == expected
    assert await jobs.streams() == expected
    # A jobs service that starts for longer than the lease costs an attempt, and no token.
    attempts = {job.attempt for job in ended}
    assert attempts <= ({1} if service == "generation" else {1, 2})


async def test_a_worker_that_was_frozen_past_its_lease_changes_nothing(
    own_mesh: RunningMesh, channel: aio.Channel
) -> None:
    expected = await undisturbed(channel)
    jobs = Submitted(channel, "frozen")
    await jobs.begin()
    pid = await pid_of(own_mesh.data_dir, "worker")
    with another_worker(own_mesh):
        os.kill(pid, signal.SIGSTOP)
        try:
            ended = await jobs.end()
        finally:
            os.kill(pid, signal.SIGCONT)
        # It wakes, and finds that its session was ended.
        await asyncio.sleep(LEASE_S)
    assert [list(job.generation.token_ids) for job in ended] == expected
    assert await jobs.streams() == expected
    assert {each.recovery for job in ended for each in job.attempts} == {"worker_lost", ""}
    again = Submitted(channel, "thawed")
    await again.begin()
    assert [list(job.generation.token_ids) for job in await again.end()] == expected
