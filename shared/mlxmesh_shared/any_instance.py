"""Calls to whichever instance of a service answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from grpc import aio

from mlxmesh_shared.errors import MeshError, ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry, follow_service
from mlxmesh_shared.rpc.channels import ChannelPool

R = TypeVar("R")


class AnyInstance:
    """Follows a service, and asks its instances one after another."""

    def __init__(self, registry: Registry, channels: ChannelPool, service: str) -> None:
        """channels: to the service; the caller closes them."""
        self._registry = registry
        self._channels = channels
        self._service = service
        self._instances: Sequence[Instance] = ()
        self._there = asyncio.Event()

    async def follow(self) -> None:
        """Follows the registry until it is cancelled."""

        async def update(instances: Sequence[Instance]) -> None:
            gone = {each.address for each in self._instances}
            gone -= {each.address for each in instances}
            self._instances = instances
            if instances:
                self._there.set()
            else:
                self._there.clear()
            for address in gone:
                await self._channels.discard(address)

        await follow_service(self._registry, self._service, update)

    async def registered(self) -> None:
        """Returns once there is an instance."""
        await self._there.wait()

    async def call(self, call: Callable[[aio.Channel], Awaitable[R]]) -> R:
        """The first answer. Raises: MeshError; ServiceUnavailable when no instance answers."""
        error: MeshError = ServiceUnavailable(f"no {self._service} service is running")
        for instance in self._instances:
            try:
                return await call(self._channels.get(instance.address))
            except ServiceUnavailable as gone:
                error = gone
        raise error
