"""Builds the jobs service from its settings."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

from mlxmesh.job.v1 import file_pb2_grpc, job_pb2_grpc, worker_pb2_grpc
from mlxmesh_jobs.batches.runner import Batches
from mlxmesh_jobs.clock import Clock, Monotonic, system_clock
from mlxmesh_jobs.domain.ports import BatchRunner
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.files.files import Files
from mlxmesh_jobs.files.limits import FileLimits
from mlxmesh_jobs.files.servicer import FileServicer
from mlxmesh_jobs.maintenance import Maintenance
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.servicer import JobServicer
from mlxmesh_jobs.storage.batches import SqlBatchStore
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.files import SqlFileStore
from mlxmesh_jobs.storage.store import SqlJobStore
from mlxmesh_jobs.storage.usage import SqlUsageOutbox
from mlxmesh_jobs.submitting import Submitter
from mlxmesh_jobs.telemetry import JobTelemetry
from mlxmesh_jobs.usage.access_link import AccessLink
from mlxmesh_jobs.usage.reporter import UsageReporter
from mlxmesh_jobs.workers.attempts import to_facts
from mlxmesh_jobs.workers.batch_session import BatchSession
from mlxmesh_jobs.workers.dispatcher import Dispatcher, Taker
from mlxmesh_jobs.workers.leases import Leases
from mlxmesh_jobs.workers.monitor import WATCHED, Monitor
from mlxmesh_jobs.workers.servicer import WorkerServicer
from mlxmesh_jobs.workers.workers import Workers
from mlxmesh_shared.errors import MeshError, WorkerLost
from mlxmesh_shared.events import Publish
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Registry, follow_others
from mlxmesh_shared.rpc.channels import QUIET_TIMEOUTS, ChannelPool, OpenChannel
from mlxmesh_shared.rpc.server import AddServicer, MeshServer, ServerOptions
from mlxmesh_shared.settings import JobsSettings
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile, database_url
from mlxmesh_shared.telemetry.metrics import Metrics

SERVICE_NAMES = (
    "mlxmesh.job.v1.JobService",
    "mlxmesh.job.v1.FileService",
    "mlxmesh.job.v1.WorkerService",
)
_POLL_INTERVAL_S = 0.2
"""How often changes by other jobs services are looked for, while there are any."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the service has from its process."""

    instance_id: str
    publish: Publish
    open_channel: OpenChannel
    metrics: Metrics | None = None
    clock: Clock = system_clock
    monotonic: Monotonic = time.monotonic


class Jobs:
    """The jobs database, and what acts on it."""

    def __init__(
        self,
        database: JobsDatabase,
        settings: JobsSettings,
        around: Surroundings,
        channels: ChannelPool,
    ) -> None:
        """Uses the database and the channels to access services, which the caller closes."""
        self._database = database
        self._settings = settings
        self._around = around
        self._channels = channels
        clock, monotonic = around.clock, around.monotonic
        self.store = SqlJobStore(database)
        self.batch_store = SqlBatchStore(database)
        self.files = SqlFileStore(
            database, max_bytes_per_principal=settings.max_files_bytes_per_principal
        )
        self._leases = Leases(lease_s=settings.lease_s, reconnect_s=settings.reconnect_s)
        telemetry = JobTelemetry(around.metrics, workers=lambda: len(self.workers), clock=clock)
        self._observer = JobObserver(around.publish, telemetry, clock=monotonic)
        self.workers = Workers(
            self.store,
            self._leases,
            self._observer,
            stall_timeout_s=settings.stall_timeout_s,
            clock=monotonic,
        )
        runner: BatchRunner = Batches(self.store, self.batch_store, self.files, clock=clock)
        self._batches = BatchSession(self.store, runner, self._observer)
        self._dispatcher = Dispatcher(self.store, self._takers)
        self._monitor = Monitor(
            self.store,
            self.workers,
            self._leases,
            self._observer,
            batches=self._batches,
            reopen=self._open_session,
            clock=monotonic,
        )
        self.workers.wake_dispatcher = self._batches.wake = self._dispatcher.wake
        self.workers.wake_monitor = self._monitor.wake

    def services(self) -> list[tuple[AddServicer, object]]:
        """The services, for a server."""
        around, settings = self._around, self._settings
        jobs = JobServicer(
            store=self.store,
            batches=self.batch_store,
            submitter=Submitter(self.store, self.files),
            workers=self.workers,
            observer=self._observer,
            clock=around.clock,
        )
        limits = FileLimits(
            max_file_bytes=settings.max_file_bytes, max_output_bytes=settings.max_output_bytes
        )
        files = FileServicer(Files(self.files, self.store, limits, clock=around.clock))
        work = WorkerServicer(self.workers, lease_s=settings.lease_s)
        return [
            (job_pb2_grpc.add_JobServiceServicer_to_server, jobs),
            (file_pb2_grpc.add_FileServiceServicer_to_server, files),
            (worker_pb2_grpc.add_WorkerServiceServicer_to_server, work),
        ]

    async def open(self) -> None:
        """Opens the session in which this process runs batches. Raises: MeshError."""
        self._batches.open(await self._open_session())

    def running(self, registry: Registry) -> AbstractAsyncContextManager[None]:
        """Gives jobs to workers, and looks after them, until the body ends."""
        around, others = self._around, asyncio.Event()
        access = AccessLink(registry, self._channels, around.instance_id)
        outbox = SqlUsageOutbox(self._database)
        maintenance = Maintenance(
            self.store,
            self.files,
            self.workers,
            self._observer,
            clock=around.clock,
            monotonic=around.monotonic,
        )
        return running_in_background(
            follow_others(registry, "jobs", around.instance_id, others),
            self._database.poll_changes(_POLL_INTERVAL_S, others),
            *(self._monitor.follow(registry, service) for service in WATCHED),
            self._monitor.run(),
            self._monitor.follow_cancellations(),
            self._dispatcher.run(),
            maintenance.run(),
            access.follow(),
            UsageReporter(self.store, outbox, access, clock=around.clock).run(),
        )

    async def drain(self) -> None:
        """Starts no more jobs, and lets workers and batches go to other jobs services."""
        self._dispatcher.stop()
        await self.workers.drain()
        await self._batches.close()
        error = WorkerLost("the jobs service has stopped")
        with contextlib.suppress(MeshError):  # then others end the session
            await self.store.end_session(
                self._batches.key, beat=None, fault=Fault.WORKER_LOST, failure=to_facts(error)
            )

    def _takers(self) -> Iterator[Taker]:
        yield from self.workers
        yield self._batches

    async def _open_session(self) -> int:
        return await self.store.open_session(self._around.instance_id, secrets.token_hex(16))


async def open_jobs(stack: AsyncExitStack, settings: JobsSettings, around: Surroundings) -> Jobs:
    """Opens the database, which the stack closes. Raises: MeshError."""
    database = await JobsDatabase.open(_database_url(settings), around.clock)
    stack.push_async_callback(database.close)
    open_access = partial(around.open_channel, role="access", timeouts=QUIET_TIMEOUTS)
    channels = ChannelPool(open_access)
    stack.push_async_callback(channels.close)
    jobs = Jobs(database, settings, around, channels)
    await jobs.open()
    return jobs


def make_server(process: ServiceProcess[JobsSettings], jobs: Jobs) -> MeshServer:
    """The server with its servicers."""
    settings = process.settings
    return process.make_server(
        settings.listen,
        services=jobs.services(),
        service_names=SERVICE_NAMES,
        options=ServerOptions(reflection=settings.reflection),
    )


def _database_url(settings: JobsSettings) -> DatabaseUrl:
    if settings.database_url:
        return database_url(settings.database_url)
    return SqliteFile(settings.data_dir / "jobs.db")
