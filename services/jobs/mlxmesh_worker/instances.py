"""The instances of a service that this worker calls, as the registry last listed them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from typing import TypeVar

import grpc
from grpc import aio

from mlxmesh_shared.errors import Cancelled, Draining, MeshError, ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry, follow_service
from mlxmesh_shared.rendezvous import rendezvous_weight
from mlxmesh_shared.rpc.channels import OpenChannel, open_channel

_STATUS_DETAILS = "grpc-status-details-bin"
_POLL_S = 0.05
_ASK_WAIT_S = 5.0
T = TypeVar("T")


class Peer:
    """One instance and its channel, which is closed once the instance has left and no call runs."""

    def __init__(self, instance: Instance, channel: aio.Channel) -> None:
        self.instance = instance
        self.channel = channel
        self._calls = 0
        self._retired = False

    @property
    def reachable(self) -> bool:
        """False while its connection cannot be made."""
        return self.channel.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncGenerator[None]:
        """Keeps the channel open while a call runs."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        """Closes the channel once its calls have ended."""
        self._retired = True
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self._calls:
            await self.channel.close()


class Instances:
    """Follows one service. An empty answer of the registry removes nobody: it may be failing."""

    def __init__(
        self,
        registry: Registry,
        service: str,
        *,
        open_: OpenChannel = open_channel,
        window_bytes: int | None = None,
    ) -> None:
        self.service = service
        self._registry = registry
        self._open = open_
        self._window_bytes = window_bytes
        self._peers: dict[tuple[str, str], Peer] = {}

    async def start(self) -> None:
        """Reads who is registered now."""
        await self._update(await self._registry.resolve(self.service))

    async def run(self) -> None:
        """Follows the registry until cancelled."""
        await follow_service(self._registry, self.service, self._update)

    async def close(self) -> None:
        """Closes every channel."""
        for peer in self._peers.values():
            await peer.channel.close()

    def ordered(self, key: str) -> list[Peer]:
        """Every instance: those that can be reached first, in an order that gateways share."""

        def order(peer: Peer) -> tuple[bool, bytes]:
            return not peer.reachable, rendezvous_weight(key, peer.instance.instance_id)

        return sorted(self._peers.values(), key=order)

    async def wait_for(self, key: str, timeout_s: float) -> list[Peer]:
        """As ordered(); waits until one can be reached.

        Those that cannot are returned once the time is over: their error says more.
        Raises: ServiceUnavailable.
        """
        give_up_s = time.monotonic() + timeout_s
        # Those that can be reached come first.
        while not (peers := self.ordered(key)) or not peers[0].reachable:
            if time.monotonic() >= give_up_s:
                break
            await asyncio.sleep(_POLL_S)
        if not peers:
            raise ServiceUnavailable(f"no {self.service} service is running; start one")
        return peers

    async def ask(self, key: str, call: Callable[[aio.Channel], Awaitable[T]]) -> T:
        """Asks one instance after another while they are lost. Raises: MeshError."""
        error: MeshError = ServiceUnavailable(f"no {self.service} service is running; start one")
        for peer in await self.wait_for(key, _ASK_WAIT_S):
            try:
                async with peer.busy():
                    return await call(peer.channel)
            except MeshError as failure:
                if not is_lost(failure):
                    raise
                error = failure
        raise error

    async def _update(self, instances: Collection[Instance]) -> None:
        if not instances:
            return
        before = self._peers
        self._peers = {
            (each.instance_id, each.address): before.get((each.instance_id, each.address))
            or self._peer(each)
            for each in instances
        }
        for place in before.keys() - self._peers.keys():
            await before[place].retire()

    def _peer(self, instance: Instance) -> Peer:
        channel = self._open(instance.address, role=self.service, window_bytes=self._window_bytes)
        return Peer(instance, channel)


def is_lost(error: MeshError) -> bool:
    """Whether the error says that an instance is unreachable, broke off, or is leaving.

    Errors that an instance answered with have details; those of the connection have none.
    """
    if isinstance(error, Draining):
        return True
    if not isinstance(error, ServiceUnavailable | Cancelled):
        return False
    cause = error.__cause__
    if not isinstance(cause, aio.AioRpcError):
        return type(error) is ServiceUnavailable  # our own: the stream ended early
    trailing = cause.trailing_metadata()
    return trailing is None or trailing.get(_STATUS_DETAILS) is None
