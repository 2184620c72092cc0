"""The WebSocket layer over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from aiohttp import web

from mlxmesh_shared.errors import BackEndFailed, ServiceUnavailable
from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.http import HttpClient
from mlxmesh_worker.connectors.port import Target
from mlxmesh_worker.connectors.websocket import Connected, WebSocketClient
from tests.fakes.http_faults import Faults
from tests.fakes.ports import free_port


class Server:
    """Sends the number of the socket, then breaks it."""

    def __init__(self) -> None:
        self.url = ""
        self.sockets = 0
        self.faults = Faults()

    async def talk(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets += 1
        await socket.send_str(f"text {self.sockets}")
        await socket.send_bytes(b"\x00\x01")
        if (await socket.receive()).data == "abort":
            assert request.transport is not None
            request.transport.abort()
        await socket.close()
        return socket


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application(middlewares=[made.faults.middleware])
    app.router.add_get("/ws", made.talk)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[WebSocketClient]:
    address = parse_address(Target(name="there", address=server.url), ("ws", "wss"))
    http = HttpClient(address)
    yield WebSocketClient(http)
    await http.close()


@pytest.mark.parametrize("end", ["abort", "close"])
async def test_a_socket_that_ends_is_opened_again(client: WebSocketClient, end: str) -> None:
    seen: list[str | bytes] = []
    async with asyncio.timeout(30), aclosing(client.messages("/ws")) as messages:
        socket = None
        async for message in messages:
            if isinstance(message, Connected):
                socket = message.socket
                continue
            seen.append(message)
            if isinstance(message, bytes) and socket is not None:
                await socket.send(end)
            if len(seen) == 6:
                break
    assert seen == ["text 1", b"\x00\x01", "text 2", b"\x00\x01", "text 3", b"\x00\x01"]


async def test_a_refusal_in_between_is_passed_over(client: WebSocketClient, server: Server) -> None:
    async with asyncio.timeout(30), aclosing(client.messages("/ws")) as messages:
        async for message in messages:
            if isinstance(message, Connected):
                server.faults.add("/ws", status=503)
                await message.socket.send("abort")
            elif message == "text 2":
                break
    assert server.sockets == 2


@pytest.mark.parametrize(("status", "error"), [(404, BackEndFailed), (503, ServiceUnavailable)])
async def test_a_first_socket_that_is_refused(
    client: WebSocketClient, server: Server, status: int, error: type[Exception]
) -> None:
    server.faults.add("/ws", status=status)
    with pytest.raises(error, match=f"status {status}"):
        async for _ in client.messages("/ws"):
            pass


async def test_nobody_listens() -> None:
    http = HttpClient(parse_address(Target(name="gone", address=f"127.0.0.1:{free_port()}")))
    with pytest.raises(ServiceUnavailable, match="gone"):
        async for _ in WebSocketClient(http).messages("/ws"):
            pass
    await http.close()
