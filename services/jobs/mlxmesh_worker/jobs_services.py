"""The jobs services of the mesh, and which of them this worker asks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from hashlib import sha256

from grpc import aio

from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry, follow_service
from mlxmesh_shared.rpc.channels import ChannelPool, OpenChannel, open_channel

JOBS = "jobs"


class JobsServices:
    """Follows the registry. An empty answer removes no instance: the registry may be failing."""

    def __init__(
        self, registry: Registry, worker_id: str, *, open_: OpenChannel = open_channel
    ) -> None:
        """worker_id: workers begin at different instances."""
        self._registry = registry
        self._worker_id = worker_id
        self._instances: list[Instance] = []
        self._found = asyncio.Event()
        self._channels = ChannelPool(partial(open_, role=JOBS))
        self._turn = 0

    async def run(self) -> None:
        """Follows the registry until cancelled."""
        await follow_service(self._registry, JOBS, self._update)

    async def close(self) -> None:
        """Closes the channels."""
        await self._channels.close()

    async def next(self) -> Instance:
        """The instance to ask, another one after each failed(); waits for the first."""
        await self._found.wait()
        return self._instances[self._turn % len(self._instances)]

    def failed(self) -> None:
        """The instance that is asked now did not serve."""
        self._turn += 1

    def channel(self, instance: Instance) -> aio.Channel:
        """The channel to an instance."""
        return self._channels.get(instance.address)

    def any_channel(self) -> aio.Channel:
        """The channel to the instance that is asked now. Raises: ServiceUnavailable."""
        if not self._instances:
            raise ServiceUnavailable("no jobs service is running; start one")
        return self.channel(self._instances[self._turn % len(self._instances)])

    async def _update(self, instances: Collection[Instance]) -> None:
        if not instances:
            return
        before = {each.address for each in self._instances}
        self._instances = sorted(instances, key=self._weight)
        self._found.set()
        for address in before - {each.address for each in instances}:
            await self._channels.discard(address)

    def _weight(self, instance: Instance) -> tuple[bool, bytes]:
        text = f"{self._worker_id} {instance.instance_id}"
        return instance.draining, sha256(text.encode()).digest()
