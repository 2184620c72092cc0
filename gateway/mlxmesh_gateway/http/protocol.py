"""HTTP connections with time limits for each request and for clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from mlxmesh_gateway.http.endpoint import CERTIFICATE
from mlxmesh_gateway.http.tls import identity_of_client
from mlxmesh_shared.tls.identity import PeerIdentity

MAX_CONNECTIONS = 64
IDLE_S = 1.0
REQUEST_S = 15.0
"""From the start of a connection, or the end of a response, to the next request's headers."""
STALL_S = 60.0
"""How long a client may read nothing of a response."""


class BoundedProtocol(H11Protocol):
    """Beyond MAX_CONNECTIONS, a new connection ends those that have sent no request for IDLE_S.

    So a client that sends its request at once is answered, however many connections are open.
    """

    request_s = REQUEST_S
    _limit: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _since_s = 0.0
    _is_last = False
    on_made: Callable[[Any], None] = lambda _: None
    on_lost: Callable[[Any], None] = lambda _: None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts the connection."""
        if len(self.connections) >= MAX_CONNECTIONS:
            self._end_idle_ones()
        super().connection_made(transport)
        self._peer = transport.get_extra_info("peername")
        connection = transport.get_extra_info("ssl_object")
        if connection is not None:
            self.app = _with_certificate(self.app, identity_of_client(connection))
        type(self).on_made(self._peer)
        self._restart_limit()

    def connection_lost(self, exc: Exception | None) -> None:
        """Frees its place."""
        if self._limit is not None:
            self._limit.cancel()
        self._end_stall()
        type(self).on_lost(self._peer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A request whose headers are here has no limit any more; its route has its own."""
        super().data_received(data)
        if self._limit is not None and self._is_answering:
            self._limit.cancel()
            self._limit = None
        if self._is_last and self._is_answering:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The server ends: who connected just before may still send one request."""
        if not self._was_asked and not self.is_idle:
            self._is_last = True
            self.loop.call_later(IDLE_S, self._end_unasked)
        else:
            super().shutdown()

    def _end_unasked(self) -> None:
        if not self._was_asked:
            self.end()

    def pause_writing(self) -> None:
        """The client reads more slowly than its response is written."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_S, self.end)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._end_stall()

    def on_response_complete(self) -> None:
        """The next request has the full time again, unless it is here already."""
        super().on_response_complete()
        if not self._is_answering:
            self._restart_limit()

    def _restart_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._since_s = self.loop.time()
        self._limit = self.loop.call_later(self.request_s, self.end)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    @property
    def _was_asked(self) -> bool:
        return cast("Any", self.cycle) is not None

    @property
    def _is_answering(self) -> bool:
        return self._was_asked and not self.cycle.response_complete

    def end(self) -> None:
        """Closes the connection at once."""
        self.transport.abort()

    def _end_idle_ones(self) -> None:
        # All are of this class: the server creates no others.
        connections = cast("set[BoundedProtocol]", self.connections)
        for one in [one for one in connections if one.is_idle]:
            one.end()

    @property
    def is_idle(self) -> bool:
        """Whether no request is unanswered, and none has arrived for a while."""
        return not self._is_answering and self.loop.time() - self._since_s >= IDLE_S


def _with_certificate(app: Any, certificate: PeerIdentity) -> Any:
    """An ASGI application that tells who the connection's client is."""

    async def told(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, CERTIFICATE: certificate}, receive, send)

    return told
