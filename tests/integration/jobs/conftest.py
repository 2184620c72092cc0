"""Jobs services with real SQL and real gRPC in this process, and clients and workers of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from grpc import aio

from mlxmesh.job.v1 import file_pb2, job_pb2
from mlxmesh.job.v1.file_pb2_grpc import FileServiceStub
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh_jobs.assembly import SERVICE_NAMES, Jobs, Surroundings, open_jobs
from mlxmesh_jobs.storage.schema import JOBS
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import JobsSettings
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.databases import sqlite_with_tables
from tests.fakes.job_worker import WAIT_S, ScriptedWorker
from tests.fakes.registry import InMemoryRegistry

FAST = {"lease_s": 1, "reconnect_s": 0.2}
"""Workers are lost soon; tests that need them to live longer say so."""


def url_text(url: DatabaseUrl) -> str:
    """A database as a setting names it."""
    return f"sqlite:///{url.path}" if isinstance(url, SqliteFile) else str(url)


class Client:
    """Calls methods as a gateway would for one caller."""

    def __init__(self, channel: aio.Channel, principal: str, *, role: str = "client") -> None:
        self._stubs: list[tuple[Any, Any]] = [
            (JobServiceStub(channel), job_pb2),
            (FileServiceStub(channel), file_pb2),
        ]
        kind, _, name = principal.partition(":")
        self.metadata = (
            ("mlxmesh-owner", f"{principal}#"),
            ("mlxmesh-caller", principal or "host"),
            ("mlxmesh-role", role),
            ("mlxmesh-user", name if kind == "user" else ""),
        )

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """The method of the stub: takes the fields of its request, raises a MeshError."""
        stub, messages = next(each for each in self._stubs if hasattr(each[0], method))
        request_class = getattr(messages, f"{method}Request")

        def call(*, metadata: tuple[tuple[str, str], ...] = (), **fields: Any) -> Any:
            request = request_class(**fields)
            return getattr(stub, method)(request, metadata=(*self.metadata, *metadata))

        return call

    async def submit(self, job_id: str = "", **fields: Any) -> job_pb2.Job:
        """Submits a job, by default a generation."""
        if not {"generation", "embedding", "connector", "batch"} & fields.keys():
            fields["generation"] = {"model": "chat@3", "prompt": "a secret prompt"}
        return (await self.SubmitJob(job_id=job_id, **fields)).job

    async def job(self, job_id: str) -> job_pb2.Job:
        """A job as it is now."""
        return (await self.GetJob(job_id=job_id)).job

    async def until(self, job_id: str, *states: str) -> job_pb2.Job:
        """The job, once it is in one of these states."""
        wanted = {job_pb2.JobState.Value(f"JOB_STATE_{each}") for each in states}
        async with asyncio.timeout(WAIT_S):
            while (job := await self.job(job_id)).state not in wanted:
                await asyncio.sleep(0.01)
        return job


class Service:
    """A running jobs service."""

    def __init__(
        self,
        jobs: Jobs,
        registry: InMemoryRegistry,
        address: str,
        channel: aio.Channel,
        events: list[Message],
    ) -> None:
        self.jobs = jobs
        self.registry = registry
        self.address = address
        self.channel = channel
        self.events = events
        self.ada = Client(channel, "user:ada")
        self.bob = Client(channel, "user:bob")
        self.admin = Client(channel, "user:root", role="admin")
        self.anonymous = Client(channel, "")
        self._workers: list[tuple[ScriptedWorker, aio.Channel]] = []

    async def worker(
        self, worker_id: str = "worker-1", *, listed: bool = True, **options: Any
    ) -> ScriptedWorker:
        """A connected worker, which the registry lists."""
        channel = open_channel(self.address)  # that of the service's clients closes with it
        worker = ScriptedWorker(channel, worker_id, **options)
        self._workers.append((worker, channel))
        if listed:
            await self.registry.register(worker_instance(worker_id))
        await worker.connect()
        return worker

    async def kill(self, worker: ScriptedWorker) -> None:
        """As kill -9 of its process."""
        await self.registry.deregister(worker_instance(worker.worker_id))
        await worker.kill()

    async def close_workers(self) -> None:
        """Ends the streams that tests left open."""
        for worker, channel in self._workers:
            await worker.kill()
            await channel.close()

    def named(self, name: str) -> list[Any]:
        """The events with a type of this name."""
        return [each for each in self.events if each.DESCRIPTOR.name == name]


def worker_instance(worker_id: str) -> Instance:
    """A worker in the registry."""
    return Instance("worker", worker_id, "127.0.0.1:1", 1)


class Services:
    """Starts services on one database and in one registry."""

    def __init__(self, stack: AsyncExitStack, url: DatabaseUrl, tmp_path: Path) -> None:
        self.url = url
        self.registry = InMemoryRegistry()
        self._stack = stack
        self._tmp_path = tmp_path
        self._count = 0
        self._services: list[Service] = []

    async def close_workers(self) -> None:
        """Ends the streams that tests left open."""
        for service in self._services:
            await service.close_workers()

    async def start(self, **settings: Any) -> tuple[Service, Callable[[], Awaitable[None]]]:
        """A service, and what kills it."""
        self._count += 1
        stack = AsyncExitStack()
        self._stack.push_async_callback(stack.aclose)
        chosen = JobsSettings(
            data_dir=self._tmp_path, database_url=url_text(self.url), **{**FAST, **settings}
        )
        events: list[Message] = []
        around = Surroundings(
            instance_id=f"jobs-{self._count}",
            publish=lambda payload, correlation_id="": events.append(payload),
            open_channel=open_channel,
        )
        jobs = await open_jobs(stack, chosen, around)
        server = MeshServer(services=jobs.services(), service_names=SERVICE_NAMES)
        address = await server.start()
        await stack.enter_async_context(jobs.running(self.registry))
        instance = Instance("jobs", around.instance_id, address, 1)
        await self.registry.register(instance)
        stack.push_async_callback(self.registry.deregister, instance)
        stack.push_async_callback(server.drain, 0, 0)
        channel = await stack.enter_async_context(open_channel(address))
        service = Service(jobs, self.registry, address, channel, events)
        self._services.append(service)
        return service, stack.aclose


@pytest.fixture
def schema() -> Schema:
    return JOBS


@pytest.fixture
async def services(database: DatabaseUrl, tmp_path: Path) -> AsyncGenerator[Services]:
    async with AsyncExitStack() as stack:
        services = Services(stack, database, tmp_path)
        yield services
        await services.close_workers()


@pytest.fixture
async def service(services: Services) -> Service:
    service, _ = await services.start()
    return service


@pytest.fixture
async def sqlite_services(tmp_path: Path) -> AsyncGenerator[Services]:
    """Where the kind of database does not matter."""
    async with AsyncExitStack() as stack:
        services = Services(stack, sqlite_with_tables(tmp_path / "jobs.db", JOBS), tmp_path)
        yield services
        await services.close_workers()


@pytest.fixture
async def sqlite_service(sqlite_services: Services) -> Service:
    """Where the kind of database does not matter."""
    service, _ = await sqlite_services.start()
    return service
