"""A gateway is made to load its HTTP server before its modules are replaced."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from mlxmesh_cli.mesh.http_port import load_http
from mlxmesh_gateway.http.server import HttpPort


class App:
    """An application that notes when it is made."""

    def __init__(self) -> None:
        self.is_made = False

    def make(self) -> Any:
        self.is_made = True
        return self._answer

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})


async def test_the_application_is_made_when_the_request_returns() -> None:
    app = App()
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(app.make):
            assert not app.is_made
            await asyncio.to_thread(load_http, port.address)
            assert app.is_made


async def test_a_port_that_nobody_serves_is_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        await asyncio.to_thread(load_http, address, 0.05)
    await asyncio.to_thread(load_http, address, 0.05)
