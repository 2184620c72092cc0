"""A channel whose new calls use the newest certificates; running calls stay on their connection."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from grpc import aio

from mlxmesh_shared.tls.certificates import Certificates, CertificateSource

OpenWith = Callable[[grpc.ChannelCredentials], aio.Channel]


class _Connection:
    """A channel with one set of certificates, closed once it is retired and idle."""

    def __init__(self, certificates: Certificates, open_: OpenWith) -> None:
        self.certificates = certificates
        self.channel = open_(
            grpc.ssl_channel_credentials(
                certificates.ca, certificates.key or None, certificates.certificate or None
            )
        )
        self._running = 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None

    def count(self, call: Any) -> Any:
        """Counts a call until it ends, and returns it."""
        self._running += 1
        call.add_done_callback(self._ended)
        return call

    @property
    def closed(self) -> bool:
        return self._closing is not None

    def retire(self) -> None:
        self._retired = True
        self._close_if_idle()

    def _ended(self, _call: Any) -> None:
        self._running -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and not self._running and self._closing is None:
            self._closing = asyncio.ensure_future(self.channel.close())


class RenewingChannel(aio.Channel):
    """Opens a new connection after the certificates have changed; the caller closes it."""

    def __init__(self, source: CertificateSource, open_: OpenWith) -> None:
        self._source = source
        self._open = open_
        self._current = _Connection(source.current(), open_)
        self._previous: list[_Connection] = []

    async def __aenter__(self) -> "RenewingChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        for connection in (*self._previous, self._current):
            await connection.channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._current.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._current.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._renewed().channel.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._method("unary_unary", *args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._method("unary_stream", *args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._method("stream_unary", *args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._method("stream_stream", *args, **kwargs)

    def _method(self, kind: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        def call(*call_args: Any, **call_kwargs: Any) -> Any:
            connection = self._renewed()
            method = getattr(connection.channel, kind)(*args, **kwargs)
            return connection.count(method(*call_args, **call_kwargs))

        return call

    def _renewed(self) -> _Connection:
        certificates = self._source.current()
        if certificates is not self._current.certificates:
            self._current.retire()
            self._previous = [one for one in self._previous if not one.closed] + [self._current]
            self._current = _Connection(certificates, self._open)
        return self._current
