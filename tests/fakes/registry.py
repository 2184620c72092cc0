"""A registry in memory: what a process sees when discovery is never the problem."""

import asyncio
from collections.abc import AsyncGenerator

from mlxmesh_shared.registry.port import Instance


class InMemoryRegistry:
    """Satisfies `Registry`; instances live until they are deregistered."""

    def __init__(self) -> None:
        self._instances: dict[tuple[str, str], Instance] = {}
        self._changed = asyncio.Condition()

    async def register(self, instance: Instance) -> None:
        async with self._changed:
            self._instances[instance.service, instance.instance_id] = instance
            self._changed.notify_all()

    async def deregister(self, instance: Instance) -> None:
        async with self._changed:
            self._instances.pop((instance.service, instance.instance_id), None)
            self._changed.notify_all()

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        return self._now(service)

    async def watch(self, service: str) -> AsyncGenerator[tuple[Instance, ...], None]:
        last: tuple[Instance, ...] | None = None
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda seen=last: self._now(service) != seen)
                last = self._now(service)
            yield last

    async def close(self) -> None:
        pass

    def _now(self, service: str) -> tuple[Instance, ...]:
        return tuple(self._instances[key] for key in sorted(self._instances) if key[0] == service)
