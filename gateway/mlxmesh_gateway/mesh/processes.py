"""Connections to the processes of the mesh, each kept for the next question."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from grpc import aio

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.channels import OpenChannel

Place = tuple[str, str]
"""A service's name, and the address of one of its instances."""


class ProcessChannels:
    """Finds processes in the registry, and connects to them."""

    def __init__(self, registry: Registry, open_: OpenChannel) -> None:
        self._registry = registry
        self._open = open_
        self._channels: dict[Place, aio.Channel] = {}

    async def resolve(self, service: str) -> Sequence[Instance]:
        """The registered instances of a service; none while the registry fails."""
        try:
            return await self._registry.resolve(service)
        except (MeshError, OSError):
            return ()  # a failing registry must not hide what this gateway knows

    async def resolve_all(self, services: Sequence[str]) -> list[Instance]:
        """The registered instances of several services."""
        named = await asyncio.gather(*map(self.resolve, services))
        return [one for group in named for one in group]

    def channel(self, instance: Instance) -> aio.Channel:
        """The connection to an instance."""
        place = instance.service, instance.address
        channel = self._channels.get(place)
        if channel is None:
            channel = self._open(instance.address, role=instance.service)
            self._channels[place] = channel
        return channel

    async def keep_only(self, instances: Collection[Instance]) -> None:
        """Closes the connections to all others."""
        places = {(one.service, one.address) for one in instances}
        for place in [place for place in self._channels if place not in places]:
            await self._channels.pop(place).close()

    async def close(self) -> None:
        """Closes every connection."""
        await self.keep_only(())
