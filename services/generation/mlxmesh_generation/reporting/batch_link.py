"""Sends numbered batches to any model service of the mesh."""

import secrets
from collections.abc import Awaitable, Callable

from grpc import aio

from mlxmesh_shared.errors import MeshError, ServiceUnavailable
from mlxmesh_shared.registry.port import Registry
from mlxmesh_shared.rpc.channels import ChannelPool

TIMEOUT_S = 10.0


class BatchLink:
    """One sender of batches; the services tell senders apart by their names."""

    def __init__(self, registry: Registry, channels: ChannelPool, instance_id: str) -> None:
        """instance_id: of this instance; another process with the same one counts separately."""
        self._registry = registry
        self._channels = channels
        self.sender = f"{instance_id[:100]}.{secrets.token_hex(8)}"
        self._failures = 0

    async def send(self, record: Callable[[aio.Channel], Awaitable[object]]) -> None:
        """Returns once it is recorded; after a failure, the next call asks another instance.

        Raises: ServiceUnavailable when there is no model service, or the error that it had.
        """
        instances = await self._registry.resolve("model")
        if not instances:
            raise ServiceUnavailable("the model service is not running; start it")
        address = instances[self._failures % len(instances)].address
        try:
            await record(self._channels.get(address))
        except MeshError:
            self._failures += 1
            raise
