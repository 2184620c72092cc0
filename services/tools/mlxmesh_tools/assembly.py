"""Builds the tools service from its settings."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from mlxmesh.tool.v1 import tool_pb2_grpc
from mlxmesh_shared.audit_delivery import AuditDelivery
from mlxmesh_shared.encryption import Cipher, load_or_create_secret
from mlxmesh_shared.events import Publish
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Registry, follow_others
from mlxmesh_shared.rpc.channels import QUIET_TIMEOUTS, ChannelPool, OpenChannel
from mlxmesh_shared.rpc.server import AddServicer, MeshServer, ServerOptions
from mlxmesh_shared.settings import ToolsSettings
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile, database_url
from mlxmesh_shared.telemetry.metrics import Metrics
from mlxmesh_tools.calls import ToolCalls
from mlxmesh_tools.checking import ArgumentChecker
from mlxmesh_tools.clock import Clock, system_clock
from mlxmesh_tools.domain.models import State
from mlxmesh_tools.domain.ports import CheckArguments, Connect
from mlxmesh_tools.maintenance import Maintenance
from mlxmesh_tools.observer import ToolObserver
from mlxmesh_tools.servers.connection import Connector
from mlxmesh_tools.servers.servers import Servers
from mlxmesh_tools.servers.supervisor import DEFAULT_TIMING, Timing
from mlxmesh_tools.servicer import ToolServicer
from mlxmesh_tools.storage.database import ToolsDatabase
from mlxmesh_tools.storage.store import ToolStore
from mlxmesh_tools.tools import Tools

SERVICE_NAMES = ("mlxmesh.tool.v1.ToolService",)
_POLL_INTERVAL_S = 0.5
"""How often changes by other tools services are looked for, while there are any."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the service has from its process."""

    instance_id: str
    publish: Publish
    open_channel: OpenChannel
    metrics: Metrics | None = None
    clock: Clock = system_clock
    connect: Connect = field(default_factory=Connector)
    timing: Timing = DEFAULT_TIMING


class ToolsService:
    """The tools database, the MCP servers, and what acts on them."""

    def __init__(
        self,
        database: ToolsDatabase,
        cipher: Cipher,
        settings: ToolsSettings,
        around: Surroundings,
        channels: ChannelPool,
        check: CheckArguments,
    ) -> None:
        """Uses the database and the channels to access services, which the caller closes."""
        self._database = database
        self._around = around
        self._channels = channels
        self.store = ToolStore(database, cipher)
        self._observer = ToolObserver(around.publish, around.metrics, states=self._states)
        self.servers = Servers(self.store, around.connect, self._observer, timing=around.timing)
        self._tools = Tools(
            self.store,
            self.servers,
            self._observer,
            stdio_servers=settings.stdio_servers,
            stdio_without_users=settings.stdio_without_users,
        )
        self._calls = ToolCalls(self.store, self.servers, check, self._observer, clock=around.clock)
        self._maintenance = Maintenance(
            self.store, retention_days=settings.call_retention_days, clock=around.clock
        )

    def services(self) -> list[tuple[AddServicer, object]]:
        """The services, for a server."""
        servicer = ToolServicer(tools=self._tools, calls=self._calls)
        return [(tool_pb2_grpc.add_ToolServiceServicer_to_server, servicer)]

    def running(self, registry: Registry) -> AbstractAsyncContextManager[None]:
        """Follows changes and delivers what the audit log gets, until the body ends."""
        others = asyncio.Event()
        audit = AuditDelivery(self.store, registry, self._channels, source="tools")
        return running_in_background(
            follow_others(registry, "tools", self._around.instance_id, others),
            self._database.poll_changes(_POLL_INTERVAL_S, others),
            self.servers.follow(),
            self._maintenance.run(),
            audit.run(),
        )

    def _states(self) -> Counter[State]:
        return Counter(self.servers.status(each.name).state for each in self.servers)


async def open_tools(
    stack: AsyncExitStack, settings: ToolsSettings, around: Surroundings
) -> ToolsService:
    """Opens the database, and starts the MCP servers; the stack ends them. Raises: MeshError."""
    cipher = Cipher(load_or_create_secret(settings.data_dir / "tools.secret"), "mcp servers")
    database = await ToolsDatabase.open(_database_url(settings), around.clock)
    stack.push_async_callback(database.close)
    channels = ChannelPool(partial(around.open_channel, role="access", timeouts=QUIET_TIMEOUTS))
    stack.push_async_callback(channels.close)
    check = ArgumentChecker()
    stack.push_async_callback(check.close)
    tools = ToolsService(database, cipher, settings, around, channels, check)
    stack.push_async_callback(tools.servers.close)
    await tools.servers.reconcile()
    return tools


def make_server(process: ServiceProcess[ToolsSettings], tools: ToolsService) -> MeshServer:
    """The server with its servicer."""
    settings = process.settings
    return process.make_server(
        settings.listen,
        services=tools.services(),
        service_names=SERVICE_NAMES,
        options=ServerOptions(reflection=settings.reflection),
    )


def _database_url(settings: ToolsSettings) -> DatabaseUrl:
    if settings.database_url:
        return database_url(settings.database_url)
    return SqliteFile(settings.data_dir / "tools.db")
