"""Where instances announce themselves and find each other."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mlxmesh_shared.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Instance:
    """One process that serves: `address` is host:port, `metadata` small facts such as its state."""

    service: str
    instance_id: str
    address: str
    pid: int
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def draining(self) -> bool:
        """Whether it is about to leave and begins nothing new."""
        return self.metadata.get("state") == "draining"

    def as_draining(self) -> "Instance":
        """The same instance, about to leave."""
        return replace(self, metadata={**self.metadata, "state": "draining"})


class Registry(Protocol):
    """What every adapter promises; tests/contract/test_registry.py holds them to it."""

    async def register(self, instance: Instance) -> None:
        """Announces an instance, or changes it, and keeps its lease until it is deregistered."""
        ...

    async def deregister(self, instance: Instance) -> None:
        """Withdraws an instance at once; nothing happens when it is not there."""
        ...

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        """The instances alive now, sorted by id; those whose lease ran out are left out."""
        ...

    def watch(self, service: str) -> AsyncGenerator[tuple[Instance, ...], None]:
        """The set as it is, then the whole set again after each change, until closed."""
        ...

    async def close(self) -> None:
        """Stops heartbeats and frees resources; what is registered stays until its lease ends."""
        ...


def checked_name(name: str, field: str) -> str:
    """The name, if every adapter can hold it. Raises: InvalidArgument naming the field."""
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(f"{field} may hold only letters, digits, '.', '_', '-'", field=field)
    return name


AGAIN_S = 1.0

_log = logging.getLogger(__name__)

Told = Callable[[Sequence[Instance]], Awaitable[None]]
"""Takes the instances as they are now."""


async def follow_service(registry: Registry, service: str, told: Told) -> None:
    """Tells of each change, until cancelled: a watch that ends or fails is begun anew."""
    while True:
        try:
            async for instances in registry.watch(service):
                await told(instances)
        except Exception:  # noqa: BLE001 - nothing may end this for good
            _log.exception("the registry's watch of %s failed; trying again", service)
        await asyncio.sleep(AGAIN_S)
