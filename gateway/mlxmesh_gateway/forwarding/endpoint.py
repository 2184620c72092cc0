"""One instance behind the gateway: its channel, its calls, and how they end."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc
from grpc import aio

from mlxmesh_gateway.forwarding.multiplexer import CARRIED, MAX_REQUEST_BYTES
from mlxmesh_gateway.forwarding.relay_link import RelayLink
from mlxmesh_gateway.forwarding.statuses import is_gone
from mlxmesh_shared.errors import Cancelled, Draining, MeshError
from mlxmesh_shared.registry import OFFERS_RELAY, Instance
from mlxmesh_shared.resilience.breaker import Breaker, BreakerState, Permit

# A few tokens a stream. Output that is faster than this process or a client then waits in
# generation, which merges it into fewer, larger messages.
WINDOW_BYTES = 256
# About two steps of hundreds of streams: the streams of a relay have windows of their own.
RELAY_WINDOW_BYTES = 16 * 1024


def offers_relay(instance: Instance) -> bool:
    """Whether the instance can carry many streams on one call; older ones cannot."""
    return OFFERS_RELAY in instance.metadata


class Endpoint:
    """One instance and its channel; counts its running calls and reports how they end."""

    def __init__(self, instance: Instance, channel: aio.Channel, breaker: Breaker) -> None:
        """Owns the channel."""
        self.instance = instance
        self.outstanding = 0
        self.breaker = breaker
        self._channel = channel
        self._retired = False
        self._reconnecting: asyncio.Task[None] | None = None
        self._methods: dict[str, Any] = {}
        self._relay = RelayLink(channel) if offers_relay(instance) else None

    @property
    def reachable(self) -> bool:
        """False while its connection cannot be made."""
        return self._channel.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE

    def unary(self, path: str) -> Any:
        """The unary method at `path`, from bytes to bytes."""
        return self._method(path, self._channel.unary_unary)

    def stream(self, path: str) -> Any:
        """The streaming method at `path`, from bytes to a stream of bytes.

        A small request travels by the relay, if the instance offers one and carries the method.
        """
        own_call = self._method(path, self._channel.unary_stream)
        relay = self._relay
        if relay is None or path not in CARRIED:
            return own_call

        def start(request: bytes, **options: Any) -> Any:
            if len(request) > MAX_REQUEST_BYTES:
                return own_call(request, **options)
            return relay.start(path, request, **options)

        return start

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncGenerator[Permit]:
        """Counts one running call, and reports how the body ends to the breaker."""
        permit = self.breaker.admit()
        self.outstanding += 1
        try:
            yield permit
            permit.succeeded()
        except MeshError as error:
            self._tell_breaker(permit, error)
            raise
        finally:
            permit.drop()
            self.outstanding -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        """Closes the channel once its running calls have ended."""
        self._retired = True
        await self._close_if_done()

    async def close(self) -> None:
        """Closes the channel now, ending its calls."""
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if self._relay is not None:
            await self._relay.close()
        await self._channel.close()

    async def _close_if_done(self) -> None:
        if self._retired and not self.outstanding:
            await self.close()

    def _method(self, path: str, make: Callable[[str], Any]) -> Any:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = make(path)
        return method

    def _tell_breaker(self, permit: Permit, error: MeshError) -> None:
        """Reports a failed call: the loss of an instance opens its breaker at once."""
        if not is_gone(error) or isinstance(error, Cancelled):
            permit.ended_by(error)
            return
        permit.failed(at_once=True)
        if not isinstance(error, Draining) and self._reconnecting is None:
            self._reconnecting = asyncio.create_task(self._reconnect(), name="reconnect")

    async def _reconnect(self) -> None:
        """Connects again, without a call, and tells the breaker when the connection is back.

        Otherwise the first call after an outage would have to wait until the breaker's pause ends,
        which doubles during an outage.
        """
        lost = False
        while self.breaker.state is not BreakerState.CLOSED:
            state = self._channel.get_state(try_to_connect=True)
            is_ready = state is grpc.ChannelConnectivity.READY
            if is_ready and lost:
                self.breaker.reconnected()
                break
            lost = lost or not is_ready
            await self._channel.wait_for_state_change(state)
        self._reconnecting = None
