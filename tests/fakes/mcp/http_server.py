"""MCP servers over HTTP: one by the official SDK, and what misbehaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]


def sdk_app(seen: list[dict[str, str]]) -> Any:
    """Notes the headers of each request."""
    server = MCPServer("over http", version="2")

    @server.tool()
    def echo(text: str) -> str:
        return text

    @server.tool()
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "awake"

    app = server.streamable_http_app()

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append({key.decode(): value.decode() for key, value in scope["headers"]})
        await app(scope, receive, send)

    return noting


def hostile_app(how: str, elsewhere: str = "") -> Any:
    """One route that does the same with every request."""

    async def redirects(_: Request) -> Response:
        return RedirectResponse(elsewhere, 307)

    async def refuses(_: Request) -> Response:
        return PlainTextResponse("no", 401)

    async def floods(_: Request) -> Response:
        async def body() -> AsyncGenerator[bytes]:
            yield b'{"jsonrpc": "2.0", "id": 1, "result": {"text": "'
            while True:
                yield b"x" * 65_536
                await asyncio.sleep(0)

        return StreamingResponse(body(), media_type="application/json")

    async def events(_: Request) -> Response:
        async def body() -> AsyncGenerator[bytes]:
            while True:
                yield b'data: {"jsonrpc": "2.0", "method": "notifications/message"}\n\n' * 100
                await asyncio.sleep(0)

        return StreamingResponse(body(), media_type="text/event-stream")

    async def hangs(_: Request) -> Response:
        await asyncio.sleep(600)
        return PlainTextResponse("late")

    async def page(_: Request) -> Response:
        return PlainTextResponse("<html>", media_type="text/html")

    handlers: dict[str, Handler] = {
        "redirects": redirects, "refuses": refuses, "floods": floods, "events": events,
        "hangs": hangs, "page": page,
    }  # fmt: skip
    methods = ["GET", "POST", "DELETE"]
    return Starlette(routes=[Route("/mcp", handlers[how], methods=methods)])


@asynccontextmanager
async def serving(app: Any) -> AsyncGenerator[str]:
    """The URL at which an application is served on loopback."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_level="critical", lifespan="auto", timeout_graceful_shutdown=0, ws="none"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await asyncio.wait([task], timeout=5)
        listener.close()
