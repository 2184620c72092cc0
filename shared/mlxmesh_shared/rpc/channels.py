"""Channels to other services that detect a dead peer fast and raise `MeshError`s.

Errors are translated by thin wrappers around the calls instead of client interceptors: an aio
interceptor starts a task for each call and puts a queue in front of each written message.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import grpc
from grpc import aio

from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.host.host_port import is_loopback, split_host_port
from mlxmesh_shared.rpc.error_status import from_rpc_error
from mlxmesh_shared.tls import CertificateSource
from mlxmesh_shared.tls.identity import server_name
from mlxmesh_shared.tls.renewing_channel import RenewingChannel

MAX_MESSAGE_BYTES = 64 * 2**20
"""Of what generation services and engines accept: prompts with images."""
_BACKSTOP_BYTES = 2**20

# Reconnects to a peer that is back within 0.1 to 0.5 s instead of 6 s.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    # A proxy that is configured for the internet must not come between services.
    ("grpc.enable_http_proxy", 0),
    # One connection for each channel: a closed or frozen one must not stay in a shared pool.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True)
class PeerTimeouts:
    """How long a peer may be silent before it counts as lost."""

    connect_s: float
    """From the first packet to the peer's HTTP/2 settings; gRPC's own default is 20 s."""
    ping_s: float
    ping_interval_s: float = 1.0
    idle_s: float = 5.0
    """Without calls for so long, the connection closes, and with it the pings; a call opens it."""
    remote_ping_interval_s: float | None = None
    """The interval for peers on other hosts; by default the same."""

    def of(self, host: str) -> "PeerTimeouts":
        """Those for a peer on this host or another one."""
        if self.remote_ping_interval_s is None or is_loopback(host):
            return self
        return replace(self, ping_interval_s=self.remote_ping_interval_s)

    def options(self, *, pings: bool) -> tuple[tuple[str, int], ...]:
        """Options for gRPC's core, which uses the minimum backoff as the timeout to connect."""
        ping_ms = round(self.ping_s * 1000)
        connect = (
            ("grpc.min_reconnect_backoff_ms", round(self.connect_s * 1000)),
            ("grpc.client_idle_timeout_ms", round(self.idle_s * 1000)),
        )
        if not pings:
            return connect
        return (
            *connect,
            ("grpc.keepalive_time_ms", round(self.ping_interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", ping_ms),
            # Without this option a frozen peer is not detected at all.
            ("grpc.http2.ping_timeout_ms", ping_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        )


SHORT_TIMEOUTS = PeerTimeouts(connect_s=1.0, ping_s=0.5)
"""For calls that can go to another instance. A busy peer may need 0.1 s to accept a connection."""
LONG_TIMEOUTS = PeerTimeouts(connect_s=10.0, ping_s=5.0)
"""For calls that have no alternative: a short timeout would turn a slow peer into an error."""
QUIET_TIMEOUTS = PeerTimeouts(connect_s=1.0, ping_s=5.0, ping_interval_s=30.0)
"""For rare calls with short deadlines of their own, which need no pings."""
WATCH_TIMEOUTS = PeerTimeouts(
    connect_s=1.0, ping_s=5.0, ping_interval_s=30.0, idle_s=600.0, remote_ping_interval_s=3.0
)
"""For streams that last and are mostly silent, and whose readers notice a frozen peer otherwise.

A peer on another host gives up a connection with news that the network does not deliver for 5 s.
The reader, who sends nothing, learns of that by its next ping after the network is back.
"""


class OpenChannel(Protocol):
    """`open_channel` with the certificates of the process."""

    def __call__(
        self,
        address: str,
        *,
        role: str = "",
        window_bytes: int | None = None,
        timeouts: PeerTimeouts = SHORT_TIMEOUTS,
    ) -> aio.Channel: ...


def open_channel(
    address: str,
    *,
    role: str = "",
    certificates: CertificateSource | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    window_bytes: int | None = None,
    pings: bool = True,
    timeouts: PeerTimeouts = SHORT_TIMEOUTS,
) -> aio.Channel:
    """A channel to host:port whose calls raise `MeshError`; the caller closes it.

    Without `certificates` the connection is in plain text. With them it uses TLS, and the peer must
    present a certificate of `role`, or without a role one for the host in its address.

    window_bytes: how many unread bytes of a stream may be buffered here before the peer is blocked;
    by default about a megabyte. A larger message still passes, in two pieces.
    pings: False for servers outside this mesh, which refuse a ping each second; a frozen peer is
    then detected only by the deadlines of calls.
    """
    sizes: tuple[tuple[str, int], ...] = (
        # The guard of the receiver checks the exact limit; this one is a backstop.
        ("grpc.max_receive_message_length", max_message_bytes + _BACKSTOP_BYTES),
        ("grpc.max_send_message_length", max_message_bytes + _BACKSTOP_BYTES),
    )
    if window_bytes is not None:
        sizes += (("grpc.http2.lookahead_bytes", window_bytes),)
    timeouts = timeouts.of(split_host_port(address)[0])
    # It pings after data arrived, to find a larger window: of use only for busy channels.
    probes = window_bytes is None and timeouts.ping_interval_s <= 1
    sizes += (("grpc.http2.bdp_probe", int(probes)),)
    options = (*_OPTIONS, *timeouts.options(pings=pings), *sizes)
    if certificates is None:
        return _MeshChannel(aio.insecure_channel(address, options=options))
    name = (("grpc.ssl_target_name_override", server_name(role)),) if role else ()

    def secured(credentials: grpc.ChannelCredentials) -> aio.Channel:
        return aio.secure_channel(address, credentials, options=(*options, *name))

    return _MeshChannel(RenewingChannel(certificates, secured))


async def wait_ready(channel: aio.Channel, timeout_s: float) -> None:
    """Waits until the peer accepts connections. Raises: ServiceUnavailable after timeout_s."""
    try:
        async with asyncio.timeout(timeout_s):
            await channel.channel_ready()
    except TimeoutError as error:
        raise ServiceUnavailable(
            f"no connection within {timeout_s:g} s; is the peer running?"
        ) from error


class ChannelPool:
    """One channel per address, opened at first use; `close` closes them all."""

    def __init__(self, open_: Callable[[str], aio.Channel] = open_channel) -> None:
        self._open = open_
        self._channels: dict[str, aio.Channel] = {}

    def get(self, address: str) -> aio.Channel:
        """The channel to an address; the pool owns it."""
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._open(address)
        return channel

    async def discard(self, address: str) -> None:
        """Closes the channel to an address, which ends its calls; does nothing if there is none."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        """Closes every channel, which ends their calls."""
        for address in list(self._channels):
            await self.discard(address)


class _Call:
    """Wraps a call to translate its errors; delegates everything else."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        awaiting: Generator[Any, None, Any] = self._call.__await__()
        cancels = cancel_requests()
        try:
            return (yield from awaiting)
        except aio.AioRpcError as error:
            # gRPC loses the cancellation of its caller when the call ends at the same moment.
            if cancel_requests() > cancels:
                raise asyncio.CancelledError from error
            raise from_rpc_error(error) from error

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def read(self) -> Any:
        try:
            return await self._call.read()
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def write(self, message: Any) -> None:
        await self._send(self._call.write(message))

    async def done_writing(self) -> None:
        await self._send(self._call.done_writing())

    async def wait_for_connection(self) -> None:
        await self._send(self._call.wait_for_connection())

    async def _send(self, sending: Any) -> None:
        try:
            await sending
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.InvalidStateError as error:
            # The call has ended: raise the error that it ended with.
            raise await self._how_it_ended() from error

    async def _how_it_ended(self) -> Exception:
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return ServiceUnavailable("the peer ended the stream; open a new one")
        trailing = await self._call.trailing_metadata()
        return from_rpc_error(aio.AioRpcError(code, aio.Metadata(), trailing))


def cancel_requests() -> int:
    """The pending cancellations of the running task itself, not of a call that it awaits."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


class _MeshChannel(aio.Channel):
    """A channel whose calls translate their errors."""

    def __init__(self, inner: aio.Channel) -> None:
        self._inner = inner

    async def __aenter__(self) -> "_MeshChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _translated(self._inner.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _translated(self._inner.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _translated(self._inner.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _translated(self._inner.stream_stream(*args, **kwargs))


def _translated(start: Any) -> Callable[..., _Call]:
    def call(*args: Any, **kwargs: Any) -> _Call:
        return _Call(cast("aio.Call", start(*args, **kwargs)))

    return call
