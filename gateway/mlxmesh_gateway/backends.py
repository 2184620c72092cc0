"""The instances behind the gateway: who they are, and who has least to do."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Any

import grpc
from grpc import aio

from mlxmesh_shared.channels import OpenChannel, open_channel
from mlxmesh_shared.errors import MeshError, ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry

_log = logging.getLogger(__name__)

WATCH_AGAIN_S = 1.0
Place = tuple[str, str]
"""An instance's id and address: together they name one life of one process."""
OnChange = Callable[[str, bool], Awaitable[None]]
"""Told a backend's name, and whether the registry knows an instance of it."""


# A few tokens a stream. What comes faster than this process or a client reads then waits in
# generation, which joins it into fewer, larger messages.
WINDOW_BYTES = 256


class Endpoint:
    """One instance and its channel; counts the calls that run there."""

    def __init__(self, channel: aio.Channel) -> None:
        self.outstanding = 0
        self._channel = channel
        self._retired = False
        self._methods: dict[str, Any] = {}

    @property
    def reachable(self) -> bool:
        """False while its connection cannot be made."""
        return self._channel.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE

    def unary(self, path: str) -> Any:
        """The method at `path` that takes bytes and answers with bytes, once."""
        return self._method(path, self._channel.unary_unary)

    def stream(self, path: str) -> Any:
        """The method at `path` that takes bytes and answers with a stream of bytes."""
        return self._method(path, self._channel.unary_stream)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncGenerator[None]:
        """Counts one running call."""
        self.outstanding += 1
        try:
            yield
        finally:
            self.outstanding -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        """Closes the channel once the calls that still run there have ended."""
        self._retired = True
        await self._close_if_done()

    async def close(self) -> None:
        """Closes the channel now, ending its calls."""
        await self._channel.close()

    async def _close_if_done(self) -> None:
        if self._retired and not self.outstanding:
            await self._channel.close()

    def _method(self, path: str, make: Callable[[str], Any]) -> Any:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = make(path)
        return method


class Backends:
    """The endpoints of each backend, kept as the registry last named them.

    An empty or failed answer of the registry drops nobody: a registry that is ill must not stop
    instances that are well.
    """

    def __init__(
        self,
        registry: Registry,
        services: Sequence[str],
        *,
        on_change: OnChange,
        open_: OpenChannel = open_channel,
    ) -> None:
        self._registry = registry
        self._on_change = on_change
        self._open = open_
        self._endpoints: dict[str, dict[Place, Endpoint]] = {name: {} for name in services}
        self._watches: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Learns who is there now, then follows every change until closed."""
        for service in self._endpoints:
            await self._update(service, await self._registry.resolve(service))
        self._watches = [asyncio.create_task(self._follow(name)) for name in self._endpoints]

    async def stop_following(self) -> None:
        """Keeps everything as it is now."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def close(self) -> None:
        """Stops following and closes every channel."""
        await self.stop_following()
        for endpoints in self._endpoints.values():
            for endpoint in endpoints.values():
                await endpoint.close()

    def all(self, service: str) -> tuple[Endpoint, ...]:
        """Every endpoint of a service. Raises ServiceUnavailable when there is none."""
        endpoints = tuple(self._endpoints[service].values())
        if not endpoints:
            raise ServiceUnavailable(
                f"no {service} service is running; start one, or wait until it is back"
            )
        return endpoints

    def by_preference(self, service: str) -> list[Endpoint]:
        """Every endpoint, the reachable ones first, then those with the least to do.

        Raises ServiceUnavailable when there is none.
        """
        return sorted(self.all(service), key=lambda one: (not one.reachable, one.outstanding))

    async def _follow(self, service: str) -> None:
        while True:
            try:
                async for instances in self._registry.watch(service):
                    await self._update(service, instances)
            except (MeshError, OSError):
                _log.exception("the registry's watch of %s failed; trying again", service)
            await asyncio.sleep(WATCH_AGAIN_S)

    async def _update(self, service: str, instances: Collection[Instance]) -> None:
        if instances:
            await self._replace(service, instances)
        await self._on_change(service, bool(instances))

    async def _replace(self, service: str, instances: Collection[Instance]) -> None:
        before = self._endpoints[service]
        places = [(instance.instance_id, instance.address) for instance in instances]
        self._endpoints[service] = {
            place: before.get(place) or self._endpoint(service, place[1]) for place in places
        }
        for place in before.keys() - set(places):
            await before[place].retire()

    def _endpoint(self, service: str, address: str) -> Endpoint:
        return Endpoint(self._open(address, role=service, window_bytes=WINDOW_BYTES))
