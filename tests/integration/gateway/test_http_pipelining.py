"""Requests that arrive before the response to the one before them."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from mlxmesh_gateway.http.exchange import send_json
from mlxmesh_gateway.http.protocol import BoundedProtocol


class Hasty(BoundedProtocol):
    request_s = 0.3


async def answer_later(_scope: Any, _receive: Any, send: Any) -> None:
    await asyncio.sleep(3 * Hasty.request_s)
    await send_json(send, 200, {})


async def test_a_request_that_is_here_already_has_no_limit() -> None:
    config, state = Config(answer_later, lifespan="off", ws="none", log_config=None), ServerState()
    config.load()

    def protocol() -> Hasty:
        return Hasty(config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 2)
        answers = [await reader.readuntil(b"{}") for _ in range(2)]
        assert [one[:12] for one in answers] == [b"HTTP/1.1 200"] * 2
        assert await reader.read() == b""  # without a third one in time
        writer.close()
