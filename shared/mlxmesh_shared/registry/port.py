"""The port of the registry, where instances register and find each other."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mlxmesh_shared.errors import InvalidArgument

OFFERS_RELAY = "relay"
"""Metadata of a generation instance that serves `GenerationService.Relay`."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Instance:
    """A serving process: `address` is host:port, `metadata` has small facts such as its state."""

    service: str
    instance_id: str
    address: str
    pid: int
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def draining(self) -> bool:
        """Whether it drains: it finishes its calls and accepts no new ones."""
        return self.metadata.get("state") == "draining"

    def as_draining(self) -> "Instance":
        """The same instance, draining."""
        return replace(self, metadata={**self.metadata, "state": "draining"})


class Registry(Protocol):
    """What every adapter guarantees; tests/contract/test_registry.py checks it."""

    async def register(self, instance: Instance) -> None:
        """Registers or updates an instance, and renews its lease until it is deregistered."""
        ...

    async def deregister(self, instance: Instance) -> None:
        """Removes an instance at once; an unknown one is ignored."""
        ...

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        """The live instances, sorted by id; those with an expired lease are left out."""
        ...

    def watch(self, service: str) -> AsyncGenerator[tuple[Instance, ...], None]:
        """Yields the current set, then the whole set after each change, until closed."""
        ...

    async def close(self) -> None:
        """Stops heartbeats and frees resources; registrations stay until their leases expire."""
        ...


def checked_name(name: str, field: str) -> str:
    """The name, if every adapter can store it. Raises: InvalidArgument naming the field."""
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(f"{field} may hold only letters, digits, '.', '_', '-'", field=field)
    return name


RETRY_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)

OnInstances = Callable[[Sequence[Instance]], Awaitable[None]]
"""Called with the current instances."""


async def follow_service(registry: Registry, service: str, on_change: OnInstances) -> None:
    """Calls `on_change` after each change, until cancelled; restarts a watch that ends or fails."""
    while True:
        try:
            async for instances in registry.watch(service):
                await on_change(instances)
        except Exception:  # noqa: BLE001 - following must not end
            _log.exception("the registry's watch of %s failed; trying again", service)
        await asyncio.sleep(RETRY_INTERVAL_S)


async def follow_others(
    registry: Registry, service: str, instance_id: str, others: asyncio.Event
) -> None:
    """Keeps the event set while other instances of the service are registered, until cancelled."""

    async def update(instances: Sequence[Instance]) -> None:
        if any(each.instance_id != instance_id for each in instances):
            others.set()
        else:
            others.clear()

    await follow_service(registry, service, update)
