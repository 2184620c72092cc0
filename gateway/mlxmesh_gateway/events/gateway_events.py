"""Events at a gateway: retained, published by itself, and delivered to the other gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from mlxmesh_gateway.events.event_log import GatewayEventLog
from mlxmesh_gateway.events.instance_events import InstanceEvents
from mlxmesh_shared.events import EventBus, EventDelivery
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.tls import CertificateSource


class GatewayEvents:
    """Appends this gateway's events to its log at once, and delivers them to the others."""

    def __init__(
        self,
        registry: Registry,
        services: Sequence[str],
        *,
        instance_id: str,
        certificates: CertificateSource | None,
    ) -> None:
        self.log = GatewayEventLog()
        bus = EventBus(service="gateway", instance_id=instance_id)
        self.publish = bus.publish
        open_ = partial(open_channel, certificates=certificates)
        self._delivery = EventDelivery(registry, own_id=instance_id, open_=open_)
        self._instances = InstanceEvents(
            registry, services, own_id=instance_id, publish=self.publish
        )
        bus.subscribe(lambda event: self.log.add([event]))
        bus.subscribe(self._delivery.put)

    @asynccontextmanager
    async def running(self, webhooks: tuple[str, ...]) -> AsyncGenerator[None]:
        """Delivers events, follows the registry and calls webhooks while the body runs."""
        async with AsyncExitStack() as stack:
            if webhooks:
                # Not at the top: few gateways need an HTTP client.
                from mlxmesh_gateway.events.webhooks import running_webhooks

                await stack.enter_async_context(running_webhooks(webhooks, self.log.events))
            work = (self._delivery.run(), self._instances.run())
            tasks = [asyncio.create_task(each) for each in work]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
