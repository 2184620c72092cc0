"""What administrators and callers may do with MCP servers and their tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlxmesh_shared.errors import IllegalState, InvalidArgument, ToolNotFound
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller
from mlxmesh_tools.domain import limits
from mlxmesh_tools.domain.models import (
    Approval,
    CallRecord,
    ServerConfig,
    ServerStatus,
    Stdio,
    Tool,
)
from mlxmesh_tools.domain.policy import may_use
from mlxmesh_tools.domain.ports import Changes
from mlxmesh_tools.servers.servers import Servers
from mlxmesh_tools.storage.store import ToolStore, unknown_server


@dataclass(frozen=True, kw_only=True)
class ServerView:
    """A server, and how it is doing."""

    config: ServerConfig
    status: ServerStatus


@dataclass(frozen=True, kw_only=True)
class ToolView:
    """A tool, and its policy."""

    tool: Tool
    approval: Approval


@dataclass(frozen=True, kw_only=True)
class ToolPage:
    """Tools, and how many more there are."""

    tools: Sequence[ToolView]
    left_out: int


class Tools:
    """All but the calls."""

    def __init__(
        self,
        store: ToolStore,
        servers: Servers,
        changes: Changes,
        *,
        stdio_servers: bool = True,
        stdio_without_users: bool = False,
    ) -> None:
        """changes: is told of them. stdio_servers: whether servers may be commands.

        stdio_without_users: whether also where nobody has to authenticate.
        """
        self._store = store
        self._servers = servers
        self._changes = changes
        self._stdio_servers = stdio_servers
        self._stdio_without_users = stdio_without_users

    async def add(self, caller: Caller, config: ServerConfig) -> ServerView:
        """Adds a server, and waits until it was asked for its tools. Raises: MeshError."""
        self._check(caller, config)
        await self._store.add(config, caller.principal)
        self._changes.added(config.name)
        return await self._applied(config.name)

    async def update(
        self, caller: Caller, name: str, changed: Callable[[ServerConfig], ServerConfig]
    ) -> ServerView:
        """Changes a server. Raises: MeshError."""

        def checked(config: ServerConfig) -> ServerConfig:
            new = changed(config)
            if new.transport != config.transport:
                self._check(caller, new)
            return new

        await self._store.update(name, checked, caller.principal)
        view = await self._applied(name)
        self._changes.updated(view.config)
        return view

    async def remove(self, caller: Caller, name: str) -> None:
        """Removes a server; its process has ended then. Raises: MeshError."""
        await self._store.remove(name, caller.principal)
        await self._servers.reconcile()
        self._changes.removed(name)

    async def refresh(self, name: str) -> ServerView:
        """Asks a server for its tools again. Raises: MeshError."""
        await self._servers.reconcile()
        supervisor = self._servers.supervisor(name)
        if supervisor is not None:
            await supervisor.refresh()
        return self._view(name)

    def servers(self, caller: Caller) -> Sequence[ServerView]:
        """The servers that the caller may use, by name."""
        return [self._view(each.name) for each in self._usable(caller)]

    def tools(self, caller: Caller, server: str) -> ToolPage:
        """The tools that the caller may call, by server and name. Raises: MeshError.

        server: only of this one; empty for all.
        """
        found = [each for each in self._usable(caller) if server in ("", each.name)]
        if server and not found:
            raise unknown_server(server)
        views = [
            ToolView(tool=tool, approval=self._servers.approval(config, tool))
            for config in found
            for tool in self._servers.status(config.name).tools
        ]
        shown = _within_limits(views)
        return ToolPage(tools=shown, left_out=len(views) - len(shown))

    async def set_policy(
        self, caller: Caller, server: str, tool: str, approval: Approval
    ) -> ToolView:
        """Sets the policy of a tool. Raises: MeshError."""
        config = self._servers.config(server)
        if config is None:
            raise unknown_server(server)
        found = next((one for one in self._servers.status(server).tools if one.name == tool), None)
        if found is None:
            raise unknown_tool(server, tool)
        await self._store.set_policy(found, approval, caller.principal)
        await self._servers.reconcile()
        self._changes.policy_set(server, tool, approval)
        return ToolView(tool=found, approval=self._servers.approval(config, found))

    async def calls(
        self, caller: Caller, *, principal: str, server: str, before: tuple[int, str], limit: int
    ) -> Sequence[CallRecord]:
        """The newest calls before a time and id; a client gets its own."""
        if not caller.is_admin:
            if principal not in ("", caller.principal):
                return []
            principal = caller.principal
        return await self._store.calls(
            principal=principal, server=server, before=before, limit=limit
        )

    def _check(self, caller: Caller, config: ServerConfig) -> None:
        if not isinstance(config.transport, Stdio):
            return
        if not self._stdio_servers:
            raise InvalidArgument(
                "MCP servers that are commands are turned off here ([tools] stdio_servers)",
                field="stdio",
            )
        if caller.authentication_is_off and not self._stdio_without_users:
            # Every account of the host could run programs as the owner of the mesh.
            raise IllegalState(
                "only an administrator may add a command, and this mesh has no users: create one"
                " (`mlxmesh users create NAME --admin`), or, where every account of this host may"
                " run programs as you, set stdio_without_users = true in [tools]"
            )

    async def _applied(self, name: str) -> ServerView:
        await self._servers.reconcile()
        supervisor = self._servers.supervisor(name)
        if supervisor is not None:
            await supervisor.settled()
        return self._view(name)

    def _view(self, name: str) -> ServerView:
        config = self._servers.config(name)
        if config is None:
            raise unknown_server(name)
        return ServerView(config=config, status=self._servers.status(name))

    def _usable(self, caller: Caller) -> list[ServerConfig]:
        return [each for each in self._servers if may_use(each, is_admin=caller.is_admin)]


def unknown_tool(server: str, tool: str) -> ToolNotFound:
    """The server has no such tool, or it cannot be used."""
    return ToolNotFound(f"the MCP server {server} has no tool {limits.cut(tool, 64)}")


def _within_limits(views: Sequence[ToolView]) -> Sequence[ToolView]:
    size_bytes = 0
    for count, view in enumerate(views):
        size_bytes += view.tool.size_bytes
        if count >= limits.MAX_LISTED_TOOLS or size_bytes > limits.MAX_LISTED_BYTES:
            return views[:count]
    return views
