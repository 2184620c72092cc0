"""What every service but the gateway does with its events: they go to the gateways."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import TypeVar

from mlxmesh.telemetry.v1.events_pb2 import ConfigChanged
from mlxmesh_shared.channels import open_channel
from mlxmesh_shared.events.bus import EventBus, Publish
from mlxmesh_shared.events.delivery import Delivery
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.settings import LiveSettings, MeshSettings
from mlxmesh_shared.tls import CertificateSource

FLUSH_S = 1.0

S = TypeVar("S", bound=MeshSettings)


def tell_changes(live: LiveSettings[S], publish: Publish) -> None:
    """Has every change of a process's settings told as an event."""

    def tell(changed: Mapping[str, object]) -> None:
        publish(ConfigChanged(settings={name: str(value) for name, value in changed.items()}))

    live.watch(tell)


@contextlib.asynccontextmanager
async def publishing(
    live: LiveSettings[S],
    registry: Registry,
    *,
    service: str,
    instance_id: str,
    certificates: CertificateSource | None = None,
) -> AsyncGenerator[EventBus]:
    """A process's bus; at the end its last events get a second to reach a gateway."""
    bus = EventBus(service=service, instance_id=instance_id)
    delivery = Delivery(registry, open_=partial(open_channel, certificates=certificates))
    bus.subscribe(delivery.put)
    tell_changes(live, bus.publish)
    delivering = asyncio.create_task(delivery.run(), name="deliver-events")
    try:
        yield bus
    finally:
        await delivery.flush(FLUSH_S)
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
