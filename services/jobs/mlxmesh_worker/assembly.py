"""Builds a worker from its settings."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.channels import OpenChannel
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import WorkerSettings
from mlxmesh_worker.attempts import Attempts
from mlxmesh_worker.back_ends import BackEnds
from mlxmesh_worker.connectors.port import ConnectorType
from mlxmesh_worker.convert import Identity
from mlxmesh_worker.instances import Instances
from mlxmesh_worker.jobs_services import JobsServices
from mlxmesh_worker.kinds.connector import ConnectorRunner
from mlxmesh_worker.kinds.embedding import EmbeddingRunner, Embeddings
from mlxmesh_worker.kinds.embedding_link import EmbeddingLink
from mlxmesh_worker.kinds.generation import GenerationRunner
from mlxmesh_worker.kinds.request import RequestRunner
from mlxmesh_worker.kinds.translation_link import TranslationLink
from mlxmesh_worker.link import Link
from mlxmesh_worker.outbox import Outbox
from mlxmesh_worker.telemetry import WorkerTelemetry
from mlxmesh_worker.work import Kind, Runner

_log = logging.getLogger(__name__)

# A few tokens a stream: output that is faster than this process is merged where it is made.
WINDOW_BYTES = 256
_QUEUE = re.compile(r"[a-z][a-z0-9_-]{0,63}")
# How long the last news may take to be stored.
_CONFIRM_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Worker:
    """All parts of a worker."""

    link: Link
    attempts: Attempts
    outbox: Outbox
    back_ends: BackEnds
    instances: tuple[Instances, ...]
    stop_grace_s: float

    def running(self) -> AbstractAsyncContextManager[None]:
        """Takes and runs jobs until the body ends."""
        return running_in_background(
            self.link.run(), self.back_ends.run(), *(each.run() for each in self.instances)
        )

    async def leave(self, _instance: Instance | None = None) -> None:
        """Takes no more jobs; returns when those that run have ended, or were given back."""
        self.link.leave()
        await self.attempts.leave(self.stop_grace_s)
        try:
            async with asyncio.timeout(_CONFIRM_S):
                await self.outbox.wait_empty()
        except TimeoutError:
            _log.warning("the last news of %d attempts are not stored", len(self.attempts.held))


async def open_worker(
    stack: AsyncExitStack,
    process: ServiceProcess[WorkerSettings],
    registry: Registry,
    connectors: Mapping[str, ConnectorType],
) -> Worker:
    """Opens what the worker needs, which the stack closes. Raises: InvalidArgument."""
    settings, open_ = process.settings, process.open_channel
    services = JobsServices(registry, process.instance_id, open_=open_)
    stack.push_async_callback(services.close)
    generation = await _follow(stack, registry, "generation", open_, window_bytes=WINDOW_BYTES)
    gateways = await _follow(stack, registry, "gateway", open_)
    # Not by the connections of streams, whose windows are too small for many vectors.
    encoding = await _follow(stack, registry, "generation", open_)
    embeddings = Embeddings(EmbeddingLink(encoding))
    back_ends = BackEnds(
        connectors,
        settings=settings.back_ends,
        registry=registry,
        slots=settings.slots_per_connector,
        probe_interval_s=settings.probe_interval_s,
    )
    stack.push_async_callback(back_ends.close)
    outbox = Outbox()
    back_ends.on_change = outbox.news.set
    telemetry = WorkerTelemetry(process.telemetry.of_process.metrics)
    runners: Mapping[Kind, Runner] = {
        Kind.GENERATION: GenerationRunner(generation),
        Kind.REQUEST: RequestRunner(generation, TranslationLink(gateways), embeddings),
        Kind.EMBEDDING: EmbeddingRunner(embeddings),
        Kind.CONNECTOR: ConnectorRunner(back_ends, services),
    }
    attempts = Attempts(
        slots=settings.slots,
        runners=runners,
        outbox=outbox,
        telemetry=telemetry,
        tracer=process.telemetry.of_process.tracer,
    )
    stack.push_async_callback(attempts.close)
    link = Link(
        identity=_identity(process, connectors),
        services=services,
        attempts=attempts,
        outbox=outbox,
        back_ends=back_ends,
        telemetry=telemetry,
    )
    return Worker(
        link=link,
        attempts=attempts,
        outbox=outbox,
        back_ends=back_ends,
        instances=(generation, gateways, encoding),
        stop_grace_s=settings.stop_grace_s,
    )


def make_server(process: ServiceProcess[WorkerSettings]) -> MeshServer:
    """A server with the services that every process has: health and control."""
    settings = process.settings
    return process.make_server(
        settings.listen, service_names=(), options=ServerOptions(reflection=settings.reflection)
    )


async def _follow(
    stack: AsyncExitStack,
    registry: Registry,
    service: str,
    open_: OpenChannel,
    *,
    window_bytes: int | None = None,
) -> Instances:
    instances = Instances(registry, service, open_=open_, window_bytes=window_bytes)
    stack.push_async_callback(instances.close)
    await instances.start()
    return instances


def _identity(
    process: ServiceProcess[WorkerSettings], connectors: Mapping[str, ConnectorType]
) -> Identity:
    """Raises: InvalidArgument for a queue that no job can name."""
    settings = process.settings
    for name in settings.queues:
        if not _QUEUE.fullmatch(name):
            raise InvalidArgument(
                f"queues has {name}; a name is 1 to 64 of a-z 0-9 _ -, beginning with a letter",
                field="queues",
            )
    return Identity(
        worker_id=process.instance_id,
        host=socket.gethostname(),
        slots=settings.slots,
        kinds=(Kind.GENERATION, Kind.REQUEST, Kind.EMBEDDING),
        connectors={name: tuple(each.operations) for name, each in connectors.items()},
        queues=settings.queues,
    )
