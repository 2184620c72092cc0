"""Online calls while the jobs service is frozen, killed, or without its database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import grpc
import pytest
from grpc import aio

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_shared.registry import Instance
from tests.chaos.clients import Crowd, mixed_requests
from tests.chaos.mesh import SIMULATED, ChaosMesh, Shape, freeze, kill, running
from tests.chaos.scenario import Run
from tests.chaos.scenarios.streams import STREAMS, StreamTrial, chats
from tests.fakes.postgres import postgres_server

GRPC_STREAMS, TOKENS = 100, 20
CALL_TIMEOUT_S = 3.0


@contextlib.asynccontextmanager
async def mesh_with_jobs(**environment: str) -> AsyncGenerator[tuple[ChaosMesh, Instance]]:
    """A mesh with a jobs service that the gateway has used, and a worker."""
    async with running(Shape(replicas=1, environment={**SIMULATED, **environment})) as mesh:
        jobs = await mesh.add("jobs")
        await mesh.add("worker")
        await until_served(mesh)
        yield mesh, jobs


async def until_served(mesh: ChaosMesh) -> None:
    """Until the jobs service answers through the gateway, which learns of it by the registry."""
    async with asyncio.timeout(60):
        while await status_of_a_job(mesh) is not grpc.StatusCode.NOT_FOUND:
            await asyncio.sleep(0.1)


async def status_of_a_job(mesh: ChaosMesh) -> grpc.StatusCode:
    """What the gateway answers for a job that there is not."""
    async with aio.insecure_channel(mesh.address) as channel:
        request = pb.GetJobRequest(job_id="none")
        try:
            await JobServiceStub(channel).GetJob(request, timeout=CALL_TIMEOUT_S)
        except aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def all_streams_complete(mesh: ChaosMesh, folder: Path, label: str) -> None:
    """By gRPC and by HTTP, all at once each."""
    async with Crowd([mesh.address], connections=4) as crowd:
        crowd.start(mixed_requests(GRPC_STREAMS, max_tokens=TOKENS), label, kept=False)
        calls = await crowd.finish()
    assert [each.status for each in calls] == ["OK"] * GRPC_STREAMS
    trial = StreamTrial(Run(count=1, folder=folder, report=print), mesh, chats())
    await trial.undisturbed()
    await trial.disturbed(label, lambda: None)
    assert [each for each in trial.judge().results if not each.met] == []
    assert len(trial.judge().tables["ends"]) == 1, STREAMS


@pytest.mark.parametrize("break_", [freeze, kill], ids=["frozen", "killed"])
async def test_streams_complete_without_the_jobs_service(
    break_: Callable[[Instance], None], tmp_path: Path
) -> None:
    async with mesh_with_jobs() as (mesh, jobs):
        break_(jobs)
        # Calls of jobs do need it.
        assert await status_of_a_job(mesh) in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
        await all_streams_complete(mesh, tmp_path, "away")


async def test_streams_complete_without_the_jobs_database(tmp_path: Path) -> None:
    with postgres_server() as server:
        url = str(server.create_database())
        async with mesh_with_jobs(MLXMESH_JOBS_DATABASE_URL=url) as (mesh, _):
            server.stop()
            try:
                assert await status_of_a_job(mesh) in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                )
                await all_streams_complete(mesh, tmp_path, "away")
            finally:
                server.start()
            await until_served(mesh)
