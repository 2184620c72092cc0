"""Publishes changes of the registry as events; one gateway does it for all."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

from mlxmesh.telemetry.v1.events_pb2 import (
    InstanceDeregistered,
    InstanceDraining,
    InstanceRegistered,
)
from mlxmesh_shared.events import Publish
from mlxmesh_shared.registry import Instance, Registry, follow_service

InstanceEvent = InstanceRegistered | InstanceDraining | InstanceDeregistered


class InstanceEvents:
    """Follows the registry from now on; instances that are already registered are no event.

    A killed process cannot publish that it is gone, so gateways do: the registered one with the
    smallest id.
    """

    def __init__(
        self, registry: Registry, services: Sequence[str], *, own_id: str, publish: Publish
    ) -> None:
        self._registry = registry
        self._services = services
        self._own_id = own_id
        self._publish = publish
        self._gateways: Sequence[Instance] = ()
        self._known: dict[str, Sequence[Instance]] = {}

    async def run(self) -> None:
        """Follows until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for service in self._services:
                told = partial(self._told, service)
                tasks.create_task(follow_service(self._registry, service, told))

    async def _told(self, service: str, now: Sequence[Instance]) -> None:
        if service == "gateway":
            self._gateways = now
        before = self._known.get(service)
        if before is not None and self._tells():
            self._tell(changes(before, now))
        self._known[service] = now

    def _tells(self) -> bool:
        first = min((gateway.instance_id for gateway in self._gateways), default="")
        return first == self._own_id

    def _tell(self, events: Iterator[InstanceEvent]) -> None:
        for event in events:
            self._publish(event, event.instance_id)


def changes(before: Sequence[Instance], now: Sequence[Instance]) -> Iterator[InstanceEvent]:
    """The changes of a service's instances, those that left first."""
    old = {_life(one): one for one in before}
    new = {_life(one): one for one in now}
    for life in sorted(old.keys() - new.keys()):
        left = old[life]
        yield InstanceDeregistered(
            service=left.service, instance_id=left.instance_id, address=left.address
        )
    for life in sorted(new.keys() - old.keys()):
        came = new[life]
        yield InstanceRegistered(
            service=came.service, instance_id=came.instance_id, address=came.address
        )
    for life, one in new.items():
        if one.draining and not (life in old and old[life].draining):
            yield InstanceDraining(service=one.service, instance_id=one.instance_id)


def _life(instance: Instance) -> tuple[str, str, int]:
    """Identifies one run of one process: a restarted engine keeps its id."""
    return instance.instance_id, instance.address, instance.pid
