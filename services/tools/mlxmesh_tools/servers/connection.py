"""Sessions with MCP servers, by the official SDK. Satisfies Connect and Connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, cast

from mcp import Client, MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    REQUEST_TIMEOUT,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    PaginatedRequestParams,
    ToolListChangedNotification,
)
from mcp_types import Tool as McpTool
from pydantic import ValidationError

from mlxmesh_shared.errors import DeadlineExceeded, MeshError, ToolServerUnavailable
from mlxmesh_tools.domain import limits
from mlxmesh_tools.domain.listing import Listed
from mlxmesh_tools.domain.models import Http, ServerConfig
from mlxmesh_tools.domain.ports import RawResult
from mlxmesh_tools.servers.http import http_transport
from mlxmesh_tools.servers.stdio import stdio_transport
from mlxmesh_tools.servers.tail import Tail

CLIENT = Implementation(name="mlxmesh", version="1")
Mode = Literal["auto", "legacy"]
_MODERN = "2026"


def quiet_sdk() -> None:
    """Keeps the SDK from logging, with a traceback, each wrong message that a server sends."""
    for name in ("mcp", "client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class McpConnection:
    """Satisfies Connection."""

    def __init__(
        self, client: Client, tail: Tail, *, changed: asyncio.Event, closed: asyncio.Event
    ) -> None:
        """changed, closed: set by who hears the server's notifications and who reads from it."""
        self._client = client
        self._tail = tail
        info = client.server_info
        name, version = (info.title or info.name, info.version) if info else ("", "")
        self.server_name = limits.cut(name, limits.MAX_TITLE_CHARACTERS)
        self.server_version = limits.cut(version, limits.MAX_VERSION_CHARACTERS)
        self.changed = changed
        self.closed = closed

    async def list_tools(self) -> Sequence[Listed]:
        entries, cursor = list[Listed](), None
        for _ in range(limits.MAX_PAGES):
            params = PaginatedRequestParams(cursor=cursor)
            try:
                page = await self._client.session.list_tools(params=params)
            except MCPError as error:
                raise self._unavailable(error) from error
            except (ValidationError, RuntimeError) as error:
                raise ToolServerUnavailable("its list of tools is not MCP") from error
            entries += map(_listed, page.tools)
            cursor = page.next_cursor
            if not cursor:
                break
        return entries

    async def call(self, tool: str, arguments: dict[str, Any], *, timeout_s: float) -> RawResult:
        # Not call_tool(), which checks results by schemas of the server.
        params = CallToolRequestParams(name=tool, arguments=arguments)
        try:
            result = await self._client.session.send_request(
                CallToolRequest(params=params),
                CallToolResult,
                request_read_timeout_seconds=timeout_s,
            )
        except MCPError as error:
            return self._failed(error, timeout_s)
        except (ValidationError, RuntimeError):
            return _error("its result is not MCP, or asks for something that this mesh does not do")
        blocks = [
            each.model_dump(mode="json", by_alias=True, exclude_none=True)
            for each in result.content
        ]
        return RawResult(
            blocks=blocks, structured=result.structured_content, is_error=bool(result.is_error)
        )

    def _failed(self, error: MCPError, timeout_s: float) -> RawResult:
        """What a server says about a call is an error of its tool."""
        if error.code == REQUEST_TIMEOUT:
            raise DeadlineExceeded(f"the tool did not end within {timeout_s:g} s") from error
        if error.code == CONNECTION_CLOSED:
            self.closed.set()
            raise self._unavailable(error) from error
        return _error(error.message)

    def _unavailable(self, error: MCPError) -> ToolServerUnavailable:
        said = self._tail.last_line() or self._tail.without_secrets(error.message)
        return ToolServerUnavailable(said)


class Connector:
    """Satisfies Connect. Some servers end when a client asks for MCP's newest version first: after
    such a session did not begin, the next one asks as older clients do, and the other way round.
    """

    def __init__(self) -> None:
        self._legacy = set[str]()
        """Servers whose next session asks as older clients do."""

    def __call__(self, config: ServerConfig) -> AbstractAsyncContextManager[McpConnection]:
        return self._open(config)

    @asynccontextmanager
    async def _open(self, config: ServerConfig) -> AsyncGenerator[McpConnection]:
        mode: Mode = "legacy" if config.name in self._legacy else "auto"
        begun = False
        try:
            async with _connected(config, mode) as connection:
                begun = True
                yield connection
        finally:
            if not begun:
                self._legacy ^= {config.name}


@asynccontextmanager
async def _connected(config: ServerConfig, mode: Mode) -> AsyncGenerator[McpConnection]:
    tail = Tail(_secrets(config))
    changed, closed, broken = asyncio.Event(), asyncio.Event(), False

    async def hear(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            changed.set()

    try:
        async with Client(
            _transport(config, tail, closed),
            mode=mode,
            message_handler=hear,
            client_info=CLIENT,
            cache=None,
        ) as client:
            listening = asyncio.create_task(_listen(client, changed))
            try:
                yield McpConnection(client, tail, changed=changed, closed=closed)
                broken = closed.is_set()
            finally:
                closed.set()
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    except MeshError:
        raise
    except Exception as error:
        raise _known(error, tail) from error
    if broken:
        raise ToolServerUnavailable(tail.last_line() or "it closed the connection")


def _transport(
    config: ServerConfig, tail: Tail, closed: asyncio.Event
) -> AbstractAsyncContextManager[Any]:
    max_bytes = limits.max_message_bytes(config.limits.max_result_bytes)
    if isinstance(config.transport, Http):
        return http_transport(config.transport, tail, max_message_bytes=max_bytes)
    return stdio_transport(config.transport, tail, closed, max_message_bytes=max_bytes)


async def _listen(client: Client, changed: asyncio.Event) -> None:
    """Newer servers tell of changes only those who ask."""
    if client.protocol_version < _MODERN:
        return
    async with client.listen(tools_list_changed=True) as events:
        async for _ in events:
            changed.set()


def _known(error: Exception, tail: Tail) -> MeshError:
    """The error of a session that could not begin, or broke."""
    causes = list(_leaves(error))
    found = next((each for each in causes if isinstance(each, MeshError)), None)
    if found is not None:
        return found
    said = tail.last_line() or tail.without_secrets(str(causes[0]) or type(causes[0]).__name__)
    return ToolServerUnavailable(said)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for each in group.exceptions for leaf in _leaves(each)]


def _secrets(config: ServerConfig) -> Sequence[str]:
    transport = config.transport
    values = transport.headers if isinstance(transport, Http) else transport.environment
    return [*values.values()]


def _listed(tool: McpTool) -> Listed:
    hints = tool.annotations
    return Listed(
        name=tool.name,
        title=tool.title or (hints.title if hints else None) or "",
        description=tool.description or "",
        input_schema=tool.input_schema,
        read_only=bool(hints and hints.read_only_hint),
        destructive=bool(hints and hints.destructive_hint),
    )


def _error(message: str) -> RawResult:
    text = limits.cut(message, limits.MAX_DESCRIPTION_CHARACTERS)
    return RawResult(blocks=[{"type": "text", "text": text}], structured=None, is_error=True)
