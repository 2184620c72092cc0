"""A tools service with real servers behind it, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from grpc import aio

from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh.tool.v1.tool_pb2_grpc import ToolServiceStub
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.caller import OWNER_METADATA, ROLE_METADATA
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import ToolsSettings
from mlxmesh_shared.sql.urls import DatabaseUrl
from mlxmesh_tools.assembly import SERVICE_NAMES, Surroundings, ToolsService, open_tools
from mlxmesh_tools.servers.supervisor import Timing
from tests.fakes.mcp.commands import hostile_server, stdio_server
from tests.fakes.registry import InMemoryRegistry
from tests.integration.jobs.conftest import url_text

FAST = Timing(connect_timeout_s=60, min_delay_s=0.01, max_delay_s=0.05, relist_interval_s=0.2)


def metadata(principal: str, *, admin: bool = False) -> Sequence[tuple[str, str]]:
    """As a gateway sets it."""
    role = "admin" if admin else "client"
    return ((OWNER_METADATA, f"{principal}#"), (ROLE_METADATA, role))


ADMIN, ADA = metadata("user:root", admin=True), metadata("user:ada")
Call = Callable[..., Awaitable[Any]]


class Service:
    """A running service, by its stub; calls are an admin's unless `by` says otherwise."""

    def __init__(self, service: ToolsService, channel: aio.Channel, events: list[Message]) -> None:
        self.service = service
        self.stub: Any = ToolServiceStub(channel)
        self.events = events

    async def add(self, name: str, command: Sequence[str] = (), **more: Any) -> pb.Server:
        """A command, or `http`; calls need no approval unless it says so."""
        more.setdefault("default_approval", pb.APPROVAL_ALWAYS)
        if "http" not in more:
            more.setdefault("stdio", pb.StdioTransport(command=command))
        request = pb.AddServerRequest(name=name, **more)
        return (await self.stub.AddServer(request, metadata=ADMIN)).server

    async def update(self, name: str, **more: Any) -> pb.Server:
        request = pb.UpdateServerRequest(name=name, **more)
        return (await self.stub.UpdateServer(request, metadata=ADMIN)).server

    async def remove(self, name: str) -> None:
        await self.stub.RemoveServer(pb.RemoveServerRequest(name=name), metadata=ADMIN)

    async def server(self, name: str, by: Any = ADMIN) -> pb.Server:
        found = await self.stub.ListServers(pb.ListServersRequest(), metadata=by)
        return next(each for each in found.servers if each.name == name)

    async def until(self, name: str, state: pb.ServerState.ValueType) -> pb.Server:
        """The server once it is in a state."""
        async with asyncio.timeout(30):
            while (found := await self.server(name)).state != state:
                await asyncio.sleep(0.01)
        return found

    async def tools(self, server: str = "", by: Any = ADMIN) -> Sequence[pb.Tool]:
        return (await self.stub.ListTools(pb.ListToolsRequest(server=server), metadata=by)).tools

    def call(self, function: str, arguments: str = "", by: Any = ADMIN, **more: Any) -> Any:
        request = pb.CallToolRequest(function=function, arguments_json=arguments, **more)
        return self.stub.CallTool(request, metadata=by)

    async def calls(self, by: Any = ADMIN, **more: Any) -> Sequence[pb.ToolCallRecord]:
        return (await self.stub.ListToolCalls(pb.ListToolCallsRequest(**more), metadata=by)).calls


class Services:
    """Services over one database."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self.registry = InMemoryRegistry()
        self._stack = stack
        self._folder = folder
        self._count = 0

    async def start(
        self, url: DatabaseUrl | None = None, *, stdio_servers: bool = True, **around: Any
    ) -> Service:
        """Over a database, or the one in the data directory."""
        self._count += 1
        settings = ToolsSettings(
            data_dir=self._folder,
            stdio_servers=stdio_servers,
            database_url=url_text(url) if url else "",
        )
        events: list[Message] = []
        instance_id = f"tools-{self._count}"
        surroundings = Surroundings(
            instance_id=instance_id,
            publish=lambda payload, correlation_id="": events.append(payload),
            open_channel=open_channel,
            **{"timing": FAST, **around},
        )
        stack = await self._stack.enter_async_context(AsyncExitStack())
        tools = await open_tools(stack, settings, surroundings)
        server = MeshServer(services=tools.services(), service_names=SERVICE_NAMES)
        address = await server.start()
        await stack.enter_async_context(tools.running(self.registry))
        instance = Instance("tools", instance_id, address, 1)
        await self.registry.register(instance)
        stack.push_async_callback(self.registry.deregister, instance)
        stack.push_async_callback(server.drain, 0, 0)
        channel = await stack.enter_async_context(open_channel(address))
        return Service(tools, channel, events)


@pytest.fixture
async def services(tmp_path: Path) -> AsyncGenerator[Services]:
    async with AsyncExitStack() as stack:
        yield Services(stack, tmp_path)


@pytest.fixture
async def service(services: Services) -> Service:
    return await services.start()


__all__ = ["ADA", "ADMIN", "Service", "Services", "hostile_server", "metadata", "stdio_server"]
