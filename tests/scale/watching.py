"""What the scale test sees of the real registry adapter: how much it reads, and when."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from mlxmesh_shared.consul.agent import ConsulAgent
from mlxmesh_shared.consul.transport import Callback, Params, Transport
from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.settings import ConsulSettings


class CountingTransport(Transport):
    """Counts the answers of Consul that this process reads, and their bytes without compression."""

    def __init__(self, settings: ConsulSettings) -> None:
        super().__init__(settings)
        self.lists = self.list_bytes = self.other_bytes = 0

    async def get(self, callback: Callback, path: str, params: Params = (), **more: Any) -> Any:
        def counted(response: Any) -> Any:
            if "/health/service/" in path:
                self.lists += 1
                self.list_bytes += len(response.body)
            else:
                self.other_bytes += len(response.body)
            return callback(response)

        return await super().get(counted, path, params, **more)


class WatchedRegistry:
    """Satisfies Registry by the Consul adapter; notes when its follower has dealt with each set."""

    def __init__(self, settings: ConsulSettings) -> None:
        self.counts = CountingTransport(settings)
        self._registry: Registry = ConsulRegistry(
            settings, ConsulAgent(settings, transport=self.counts)
        )
        self.known: dict[str, tuple[float, int]] = {}
        """By service: when the last set was dealt with, in time.monotonic(), and its size."""

    async def register(self, instance: Instance) -> None:
        await self._registry.register(instance)

    async def deregister(self, instance: Instance) -> None:
        await self._registry.deregister(instance)

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        return await self._registry.resolve(service)

    async def watch(self, service: str) -> AsyncGenerator[tuple[Instance, ...], None]:
        async for instances in self._registry.watch(service):
            yield instances
            # The follower has asked for the next set, so it is done with this one.
            self.known[service] = (time.monotonic(), len(instances))

    async def close(self) -> None:
        await self._registry.close()


def totals(registries: Sequence[WatchedRegistry]) -> dict[str, int]:
    """What all of them have read so far."""
    return {
        "lists": sum(each.counts.lists for each in registries),
        "list_bytes": sum(each.counts.list_bytes for each in registries),
        "other_bytes": sum(each.counts.other_bytes for each in registries),
    }
