"""A gateway has its host's launcher start the jobs service when a call needs it first."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from mlxmesh.control.v1 import launcher_pb2
from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceServicer, add_JobServiceServicer_to_server
from mlxmesh_client import MeshClient
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.routes import public_routes
from mlxmesh_gateway.forwarding.starting import StartOnUse
from mlxmesh_launcher.servicer import control_server
from mlxmesh_shared.errors import NotStarted, ServiceUnavailable
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.server import MeshServer
from tests.integration.gateway.conftest import Stand

JOBS = "mlxmesh.job.v1.JobService"


class Jobs(JobServiceServicer):
    """Accepts every job."""

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Any) -> pb.SubmitJobResponse:
        return pb.SubmitJobResponse(job=pb.Job(job_id=request.job_id))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        return pb.ListJobsResponse(jobs=[pb.Job(job_id="one")])


class Launcher:
    """Starts a jobs service beside a gateway, unless it is to fail."""

    def __init__(self, stand: Stand, *, fails: bool = False, hangs: bool = False) -> None:
        self._stand = stand
        self._fails = fails
        self._hangs = hangs
        self.starts: list[str] = []

    async def announce(self, host: str) -> None:
        server = control_server(self, leaving=asyncio.Event())
        instance = await self._stand.announce("launcher", f"launcher-{host}", server)
        at_host = Instance(*(instance.service, instance.instance_id, instance.address), pid=1,
                           metadata={"host": host})  # fmt: skip
        await self._stand.registry.register(at_host)

    def names(self, services: Sequence[str]) -> list[str]:
        return []

    def services(self) -> Sequence[launcher_pb2.SupervisedService]:
        return []

    async def start_service(self, name: str) -> tuple[launcher_pb2.SupervisedService, bool]:
        self.starts.append(name)
        if self._fails:
            raise ServiceUnavailable(f"{name} ended with code 1: its last words")
        if self._hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0.1)  # both calls of the test arrive meanwhile
        jobs = Jobs()  # pyright: ignore[reportAbstractUsage]  # the others are not called
        server = MeshServer(
            services=[(add_JobServiceServicer_to_server, jobs)], service_names=[JOBS]
        )
        await self._stand.announce("jobs", "jobs-1", server)
        return launcher_pb2.SupervisedService(name=name), True

    async def replace(self, name: str) -> AsyncGenerator[launcher_pb2.RestartPhase.ValueType]:
        yield launcher_pb2.RESTART_PHASE_DONE


def work() -> pb.SubmitJobRequest:
    request = pb.SubmitJobRequest()
    request.generation.model, request.generation.prompt = "chat", "Hi"
    return request


async def jobs_client(stand: Stand) -> MeshClient:
    await stand.generation()
    await stand.models()
    return await stand.client(await stand.gateway(), attempts=1)


async def test_the_first_jobs_start_it_once(stand: Stand) -> None:
    launcher = Launcher(stand)
    await launcher.announce(socket.gethostname())
    client = await jobs_client(stand)
    with pytest.raises(NotStarted, match="no jobs service is running"):
        await client.jobs.list()  # which has nothing to list, and starts nothing
    assert launcher.starts == []

    first, second = await asyncio.gather(*(client.jobs.submit(work()) for _ in range(2)))
    assert first.job_id != second.job_id
    assert launcher.starts == ["jobs"]
    assert [job.job_id for job in await client.jobs.list()] == ["one"]


async def test_the_first_user_starts_the_access_service(stand: Stand) -> None:
    launcher = Launcher(stand, fails=True)
    await launcher.announce(socket.gethostname())
    client = await jobs_client(stand)
    with pytest.raises(NotStarted):
        await client.access.sign_in_options()
    assert launcher.starts == []
    with pytest.raises(ServiceUnavailable, match="access ended with code 1"):
        await client.access.create_user("ada", password="correct horse battery", role="admin")
    assert launcher.starts == ["access"]


async def test_a_launcher_of_another_host_is_not_asked(stand: Stand) -> None:
    launcher = Launcher(stand)
    await launcher.announce("another")
    client = await jobs_client(stand)
    with pytest.raises(ServiceUnavailable, match="`mlxmesh jobs start` on its host"):
        await client.jobs.submit(work())
    assert launcher.starts == []


async def test_a_failed_start_is_told_and_tried_again(stand: Stand) -> None:
    launcher = Launcher(stand, fails=True)
    await launcher.announce(socket.gethostname())
    client = await jobs_client(stand)
    for _ in range(2):
        with pytest.raises(ServiceUnavailable, match="its last words"):
            await client.jobs.submit(work())
    assert launcher.starts == ["jobs", "jobs"]


async def test_a_start_that_hangs_is_told(stand: Stand) -> None:
    launcher = Launcher(stand, hangs=True)
    await launcher.announce(socket.gethostname())

    async def ignore(service: str, known: bool) -> None: ...

    backends = Backends(stand.registry, ["jobs"], on_change=ignore)
    starts = StartOnUse(stand.registry, backends, timeout_s=2)
    (route,) = [each for each in public_routes() if each.path == f"/{JOBS}/SubmitJob"]
    # The one that leaves does not end the start of the other.
    leaves = asyncio.create_task(starts.ensure(route))
    stays = asyncio.create_task(starts.ensure(route))
    while not launcher.starts:
        await asyncio.sleep(0.01)
    leaves.cancel()
    with pytest.raises(ServiceUnavailable, match="did not start within 2 s; its log"):
        await stays
    assert launcher.starts == ["jobs"]
