"""Messages of a WebSocket that is opened again when it breaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from mlxmesh_shared.errors import BackEndFailed, MeshError, ServiceUnavailable
from mlxmesh_worker.connectors.http import CONNECT_TIMEOUT_S, HttpClient

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
PING_INTERVAL_S = 10.0
PATIENCE_S = 30.0
"""How long a back end may be away in the middle of its work."""
_FIRST_DELAY_S, _MAX_DELAY_S = 0.1, 5.0
_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True)
class Connected:
    """The socket was opened, for the first time or again: messages may have been missed."""

    socket: Socket


class Socket:
    """One open WebSocket. Raises, from every method: ServiceUnavailable once it has broken."""

    def __init__(self, client: HttpClient, response: aiohttp.ClientWebSocketResponse) -> None:
        self._client = client
        self._response = response

    async def send(self, text: str) -> None:
        """Sends a text."""
        try:
            await self._response.send_str(text)
        except _ERRORS as error:
            raise self._client.unreachable(error) from None

    async def receive(self) -> str | bytes:
        """The next message."""
        message = await self._response.receive()
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            return message.data
        raise ServiceUnavailable(f"{self._client.address.described} closed its WebSocket")


class WebSocketClient:
    """Opens WebSockets of one back end, over the connections of its HttpClient."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    @asynccontextmanager
    async def connect(
        self, path: str, query: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Socket]:
        """An open socket. Raises: ServiceUnavailable; BackEndFailed if it speaks no WebSocket."""
        headers = await self._client.authorized()
        opening = self._client.session().ws_connect(
            self._client.url(path),
            params=query,
            headers=headers,
            heartbeat=PING_INTERVAL_S,
            max_msg_size=MAX_MESSAGE_BYTES,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                response = await opening
        except aiohttp.WSServerHandshakeError as error:
            who = self._client.address.described
            said = f"{who} refused a WebSocket at {path} with status {error.status}"
            full = error.status in (401, 403) or error.status >= 500
            raise (ServiceUnavailable if full else BackEndFailed)(said) from None
        except _ERRORS as error:
            raise self._client.unreachable(error) from None
        async with response:
            yield Socket(self._client, response)

    async def messages(
        self, path: str, query: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Connected | str | bytes]:
        """Its messages until the caller has enough, over as many sockets as it takes. Connected
        comes first on each of them. Raises: as connect, if the first socket cannot be opened, or
        none for PATIENCE_S.
        """
        clock = asyncio.get_running_loop().time
        give_up_at, failures = clock(), 0
        while True:
            try:
                async with self.connect(path, query) as socket:
                    yield Connected(socket)
                    while True:
                        message = await socket.receive()
                        give_up_at, failures = clock() + PATIENCE_S, 0
                        yield message
            except MeshError:
                if clock() >= give_up_at:
                    raise
            delay_s = min(_FIRST_DELAY_S * 2.0 ** min(failures, 20), _MAX_DELAY_S)
            failures += 1
            await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))
