"""Publishes the launcher's events, and converts crashes to contract messages."""

from __future__ import annotations

import asyncio
import math
import os
from functools import partial

from google.protobuf.message import Message

from mlxmesh.control.v1.launcher_pb2 import SupervisedService
from mlxmesh.telemetry.v1.events_pb2 import ServiceCrashed
from mlxmesh_launcher.child import Child, Crash
from mlxmesh_shared.events import EventBus
from mlxmesh_shared.events.delivery import EventDelivery
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.tls import CertificateSource


def service_message(child: Child) -> SupervisedService:
    """A service as it is now."""
    pid, crash = child.pid or 0, child.crash
    message = SupervisedService(name=child.name, pid=pid, restarts=child.restarts)
    if crash is not None:
        message.last_exit = crash.last_exit
        message.failures = crash.failures
        message.restart_in_ms = 0 if pid else math.ceil(crash.restart_in_s * 1000)
    return message


def crash_event(crash: Crash) -> ServiceCrashed:
    """The event of a crash."""
    return ServiceCrashed(
        name=crash.name,
        last_exit=crash.last_exit,
        failures=crash.failures,
        restart_in_ms=math.ceil(crash.restart_in_s * 1000),
    )


class LauncherEvents:
    """Publishes the events of one launcher, once started."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._bus = EventBus(service="launcher", instance_id=f"launcher-{os.getpid()}")
        self._delivering: asyncio.Task[None] | None = None

    def start(self, certificates: CertificateSource | None) -> None:
        """Starts the delivery of events."""
        open_ = partial(open_channel, certificates=certificates)
        delivery = EventDelivery(self._registry, open_=open_)
        self._bus.subscribe(delivery.put)
        self._delivering = asyncio.create_task(delivery.run(), name="deliver-events")

    def publish(self, payload: Message, correlation_id: str = "") -> None:
        """Publishes an event; satisfies Publish."""
        self._bus.publish(payload, correlation_id)

    def publish_crash(self, crash: Crash) -> None:
        """Publishes one crash."""
        self.publish(crash_event(crash), crash.name)

    async def stop(self) -> None:
        """Stops the delivery; events that are not delivered yet are lost."""
        if self._delivering is not None:
            self._delivering.cancel()
            await asyncio.gather(self._delivering, return_exceptions=True)
