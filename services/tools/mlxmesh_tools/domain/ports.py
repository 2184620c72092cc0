"""What the service needs of MCP servers and of whoever observes it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from mlxmesh_tools.domain.listing import Listed
from mlxmesh_tools.domain.models import Approval, CallRecord, ServerConfig, ServerStatus


@dataclass(frozen=True, kw_only=True)
class RawResult:
    """What a tool returned, before it is brought within the limits."""

    blocks: Sequence[dict[str, Any]]
    structured: Any
    is_error: bool


class Connection(Protocol):
    """A session with an MCP server."""

    server_name: str
    server_version: str
    changed: asyncio.Event
    """Set when the server says that its tools have changed."""
    closed: asyncio.Event
    """Set when the session has ended."""

    async def list_tools(self) -> Sequence[Listed]:
        """All tools. Raises: ToolServerUnavailable."""
        ...

    async def call(self, tool: str, arguments: dict[str, Any], *, timeout_s: float) -> RawResult:
        """Calls a tool; when cancelled, cancels the call at the server.

        Raises: ToolServerUnavailable, DeadlineExceeded, InvalidArgument.
        """
        ...


class Connect(Protocol):
    """Opens sessions with MCP servers."""

    def __call__(self, config: ServerConfig) -> AbstractAsyncContextManager[Connection]:
        """Entering it raises ToolServerUnavailable; leaving it ends the server's process."""
        ...


class Observer(Protocol):
    """Is told what happens; never waits or fails."""

    def server_changed(self, config: ServerConfig, status: ServerStatus) -> None:
        """The state, or the tools, of a server changed."""
        ...

    def called(self, record: CallRecord) -> None:
        """A call ended."""
        ...


class Changes(Protocol):
    """Is told what administrators change; never waits or fails."""

    def added(self, server: str) -> None: ...
    def updated(self, config: ServerConfig) -> None: ...
    def removed(self, server: str) -> None: ...
    def policy_set(self, server: str, tool: str, approval: Approval) -> None: ...


class CheckArguments(Protocol):
    """Checks arguments against the schema of a tool."""

    async def __call__(self, schema: str, arguments: str) -> None:
        """Raises: InvalidArgument that says where the arguments differ from the schema."""
        ...
