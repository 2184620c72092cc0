"""Tells of instances that come and go, as the registry says: one gateway tells for all."""

import asyncio
import logging
from collections.abc import Iterator, Sequence

from mlxmesh.telemetry.v1.events_pb2 import InstanceDraining, InstanceLeft, InstanceRegistered
from mlxmesh_shared.events import Publish
from mlxmesh_shared.registry import Instance, Registry

WATCH_AGAIN_S = 1.0

_log = logging.getLogger(__name__)

InstanceEvent = InstanceRegistered | InstanceDraining | InstanceLeft


class InstanceEvents:
    """Follows the registry from now on: who is there already is no event.

    A process that is killed cannot tell that it left, so gateways do: of those that are registered,
    the one whose id comes first.
    """

    def __init__(
        self, registry: Registry, services: Sequence[str], *, own_id: str, publish: Publish
    ) -> None:
        self._registry = registry
        self._services = services
        self._own_id = own_id
        self._publish = publish
        self._gateways: Sequence[Instance] = ()

    async def run(self) -> None:
        """Follows until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for service in self._services:
                tasks.create_task(self._follow(service))

    async def _follow(self, service: str) -> None:
        before: Sequence[Instance] | None = None
        while True:
            try:
                async for now in self._registry.watch(service):
                    if service == "gateway":
                        self._gateways = now
                    if before is not None and self._tells():
                        self._tell(changes(before, now))
                    before = now
            except Exception:  # noqa: BLE001 - nothing may end this for good
                _log.exception("the registry's watch of %s failed; trying again", service)
            await asyncio.sleep(WATCH_AGAIN_S)

    def _tells(self) -> bool:
        first = min((gateway.instance_id for gateway in self._gateways), default="")
        return first == self._own_id

    def _tell(self, events: Iterator[InstanceEvent]) -> None:
        for event in events:
            self._publish(event, event.instance_id)


def changes(before: Sequence[Instance], now: Sequence[Instance]) -> Iterator[InstanceEvent]:
    """What became of a service's instances, those that left first."""
    old = {_life(one): one for one in before}
    new = {_life(one): one for one in now}
    for life in sorted(old.keys() - new.keys()):
        left = old[life]
        yield InstanceLeft(service=left.service, instance_id=left.instance_id, address=left.address)
    for life in sorted(new.keys() - old.keys()):
        came = new[life]
        yield InstanceRegistered(
            service=came.service, instance_id=came.instance_id, address=came.address
        )
    for life, one in new.items():
        if one.draining and not (life in old and old[life].draining):
            yield InstanceDraining(service=one.service, instance_id=one.instance_id)


def _life(instance: Instance) -> tuple[str, str, int]:
    """What names one life of one process: an engine that was started again keeps its id."""
    return instance.instance_id, instance.address, instance.pid
