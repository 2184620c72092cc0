"""MCP servers in memory. Satisfies Connect and Connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mlxmesh_shared.errors import DeadlineExceeded, ToolServerUnavailable
from mlxmesh_tools.domain.listing import Listed
from mlxmesh_tools.domain.models import ServerConfig
from mlxmesh_tools.domain.ports import RawResult


def listed(name: str, **properties: Any) -> Listed:
    """A tool with these arguments."""
    schema = {"type": "object", "properties": properties}
    return Listed(
        name=name,
        title="",
        description=f"What {name} does.",
        input_schema=schema,
        read_only=False,
        destructive=False,
    )


def _set(event: asyncio.Event) -> asyncio.Event:
    event.set()
    return event


@dataclass
class FakeServers:
    """What every server offers; a test changes it."""

    tools: Sequence[Listed] = (listed("echo", text={"type": "string"}), listed("sleep"))
    down: str = ""
    """Why servers cannot be reached."""
    hold: asyncio.Event = field(default_factory=lambda: _set(asyncio.Event()))
    """While it is not set, nobody is connected."""
    opened: int = 0
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0
    most_running: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets calls of `sleep` end."""
    connections: list[FakeConnection] = field(default_factory=list)

    def __call__(self, config: ServerConfig) -> AbstractAsyncContextManager[FakeConnection]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[FakeConnection]:
        await self.hold.wait()
        if self.down:
            raise ToolServerUnavailable(self.down)
        self.opened += 1
        connection = FakeConnection(self)
        self.connections.append(connection)
        try:
            yield connection
        finally:
            connection.closed.set()
        if self.down:
            raise ToolServerUnavailable(self.down)


class FakeConnection:
    """One session."""

    server_name, server_version = "fake", "1"

    def __init__(self, servers: FakeServers) -> None:
        self._servers = servers
        self.changed, self.closed = asyncio.Event(), asyncio.Event()

    async def list_tools(self) -> Sequence[Listed]:
        return self._servers.tools

    async def call(self, tool: str, arguments: dict[str, Any], *, timeout_s: float) -> RawResult:
        servers = self._servers
        servers.calls.append((tool, arguments))
        servers.running += 1
        servers.most_running = max(servers.most_running, servers.running)
        try:
            if tool == "sleep":
                await self._until_released(timeout_s)
        except asyncio.CancelledError:
            servers.cancelled += 1
            raise
        finally:
            servers.running -= 1
        text = str(arguments.get("text", ""))
        return RawResult(blocks=[{"type": "text", "text": text}], structured=None, is_error=False)

    async def _until_released(self, timeout_s: float) -> None:
        released = asyncio.create_task(self._servers.release.wait())
        closed = asyncio.create_task(self.closed.wait())
        done, rest = await asyncio.wait(
            [released, closed], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        for each in rest:
            each.cancel()
        if closed in done:
            raise ToolServerUnavailable("the connection was closed")
        if not done:
            raise DeadlineExceeded(f"the tool did not end within {timeout_s:g} s")
