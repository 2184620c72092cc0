"""What every registered service does around its own work, from joining the mesh to its drain.

The order of the drain is why this is in one place: deregister, report NOT_SERVING, wait until
resolvers have seen it, stop the server with a grace period, then close everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mlxmesh_shared.config_store import ConfigStore, open_config_store
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.events import EventBus, publishing
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.process.startup import wait_for_stop
from mlxmesh_shared.registry import Instance, Registry, local_instance, open_registry
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import LiveSettings, MeshSettings, section_values
from mlxmesh_shared.telemetry import set_log_level


@asynccontextmanager
async def running_in_background(*work: Coroutine[Any, Any, Any]) -> AsyncGenerator[None]:
    """Runs the coroutines until the body ends, then cancels those that still run.

    If one fails, the body is cancelled and its error raised: a process without this work must not
    go on serving.
    """
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each) for each in work]
        yield
        for task in running:
            task.cancel()


if TYPE_CHECKING:
    from mlxmesh_shared.telemetry.sink import TelemetrySink

S = TypeVar("S", bound=MeshSettings)
WaitForStop = Callable[[asyncio.Event], Awaitable[object]]
"""Returns when the process should stop; the event is set by ControlService's Drain."""


async def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class ServiceSteps:
    """A service's own steps between those that all services have, and its part of the record."""

    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Metadata of this instance in the registry."""
    serving: Sequence[str] | None = None
    """Services that are SERVING once the process is ready; None for all of its server's."""
    before_ready: Callable[[], Awaitable[object]] = _nothing
    """After the server listens, before it reports SERVING."""
    before_deregistration: Callable[[Instance], Awaitable[object]] = _nothing
    """After a stop was requested, while the instance is still registered."""
    before_drain: Callable[[Instance], Awaitable[object]] = _nothing
    """After the instance was deregistered, before its server is drained."""


class ServiceHost(Generic[S]):
    """A process that has joined a mesh."""

    def __init__(
        self,
        process: ServiceProcess[S],
        registry: Registry,
        *,
        wait_for_stop: WaitForStop = wait_for_stop,
    ) -> None:
        """The caller owns the registry; `open_host` opens and closes one."""
        self.process = process
        self.registry = registry
        self._wait_for_stop = wait_for_stop

    def publishing(self) -> AbstractAsyncContextManager[EventBus]:
        """Publishes events, and changes of the settings as events, to every gateway."""
        return publishing(
            self.process.live,
            self.registry,
            service=self.process.service,
            instance_id=self.process.instance_id,
            certificates=self.process.certificates,
        )

    async def serve(
        self, server: MeshServer, *, grace_s: float, steps: ServiceSteps = ServiceSteps()
    ) -> None:
        """Serves from listening to the end of the drain.

        grace_s: how long running calls may go on during the drain.
        If a step fails, the instance is deregistered and its server stopped without grace.
        """
        address = await server.start()
        instance = self._instance(address, steps.facts)
        try:
            await steps.before_ready()
            await server.set_serving(steps.serving)
            await self.registry.register(instance)
            await self._wait_for_stop(server.leaving)
            await steps.before_deregistration(instance)
            await self.registry.deregister(instance)
            await steps.before_drain(instance)
            await server.drain(grace_s)
        except BaseException:
            await self._abandon(server, instance)
            raise

    def _instance(self, address: str, facts: Mapping[str, str]) -> Instance:
        process = self.process
        instance = local_instance(process.settings, process.service, process.instance_id, address)
        return replace(instance, metadata={**instance.metadata, **facts})

    async def _abandon(self, server: MeshServer, instance: Instance) -> None:
        with contextlib.suppress(MeshError, OSError):  # the error of the step is what to report
            await self.registry.deregister(instance)
        await server.drain(grace_s=0, settle_s=0)


@contextlib.asynccontextmanager
async def open_host(
    process: ServiceProcess[S], *, local_sink: TelemetrySink | None = None
) -> AsyncGenerator[ServiceHost[S]]:
    """Opens the registry, follows the settings and exports telemetry; closes all in reverse order.

    local_sink: as of ProcessTelemetry.exporting.
    """
    registry = open_registry(process.settings, process.certificates)
    try:
        async with (
            following_settings(process.live, process.service),
            process.telemetry.exporting(registry, process.certificates, local=local_sink),
        ):
            yield ServiceHost(process, registry)
    finally:
        await registry.close()


@contextlib.asynccontextmanager
async def following_settings(live: LiveSettings[S], section: str) -> AsyncGenerator[None]:
    """Keeps a process's settings, and its log level, in step with the configuration store."""
    live.subscribe(lambda now: set_log_level(now.log_level))
    async with open_config_store(live.current) as store:
        task = asyncio.create_task(follow_store(store, live, section), name="follow-settings")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def follow_store(store: ConfigStore, live: LiveSettings[S], section: str) -> None:
    """Applies each content of the store to the settings, until cancelled."""
    async with contextlib.aclosing(store.watch()) as contents:
        async for content in contents:
            live.apply(section_values(content, section))
