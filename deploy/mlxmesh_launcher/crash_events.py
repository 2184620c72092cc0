"""Tells every gateway of services that ended unasked, as soon as there is a gateway to tell."""

from __future__ import annotations

import asyncio
import os
from functools import partial

from mlxmesh_launcher.child import Crash
from mlxmesh_launcher.convert import crash_event
from mlxmesh_shared.channels import open_channel
from mlxmesh_shared.events import EventBus
from mlxmesh_shared.events.delivery import Delivery
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.tls import CertificateSource


class CrashEvents:
    """Events of one launcher; before `start` nobody is told."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._bus = EventBus(service="launcher", instance_id=f"launcher-{os.getpid()}")
        self._delivering: asyncio.Task[None] | None = None

    def start(self, certificates: CertificateSource | None) -> None:
        """Deliver from now on."""
        open_ = partial(open_channel, certificates=certificates)
        delivery = Delivery(self._registry, open_=open_)
        self._bus.subscribe(delivery.put)
        self._delivering = asyncio.create_task(delivery.run(), name="deliver-events")

    def tell(self, crash: Crash) -> None:
        """Of one crash."""
        self._bus.publish(crash_event(crash), correlation_id=crash.name)

    async def stop(self) -> None:
        """End the delivery; what is not delivered by now is lost with the mesh."""
        if self._delivering is not None:
            self._delivering.cancel()
            await asyncio.gather(self._delivering, return_exceptions=True)
