"""The SDK's server, which starts with its first request: importing it takes a second."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mlxmesh_gateway.mcp.convert import MeshBehindDoor
from mlxmesh_shared.errors import FeatureNotSupported
from mlxmesh_shared.mcp_server.mesh import Mesh
from mlxmesh_shared.mcp_server.tools import MeshTool

CALLS = "mlxmesh.calls"
"""The key of an ASGI scope that holds the HttpCalls of the request."""


class McpService:
    """An ASGI application without state between requests, so any gateway serves any of them."""

    def __init__(self, *, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._running: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Any] | None = None
        self._stop = asyncio.Event()

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Raises: FeatureNotSupported where the SDK is not installed."""
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run(self._ready))
        manager = await asyncio.shield(self._ready)
        await manager.handle_request(scope, receive, send)

    async def close(self) -> None:
        """Ends what runs."""
        self._stop.set()
        if self._running is not None:
            await self._running

    async def _run(self, ready: asyncio.Future[Any]) -> None:
        """In a task of its own: the SDK must end in the task in which it began."""
        try:
            manager = await asyncio.to_thread(_make_manager, self._max_body_bytes)
        except ImportError:
            self._ready = None
            ready.set_exception(
                FeatureNotSupported(
                    "this gateway has no MCP server: install mlxmesh[mcp] on its host"
                )
            )
            return
        async with manager.run():
            ready.set_result(manager)
            await self._stop.wait()


def _make_manager(max_body_bytes: int) -> Any:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from mlxmesh_shared.mcp_server.server import make_server

    # Host and Origin are checked for the whole port.
    return StreamableHTTPSessionManager(
        make_server(_mesh_of), stateless=True, max_request_body_size=max_body_bytes
    )


async def _mesh_of(context: Any, _tool: MeshTool) -> Mesh:
    return MeshBehindDoor(context.request.scope[CALLS])
