"""Delivers the events of a process to every gateway: at least once, and to each in order."""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from mlxmesh.telemetry.v1.events_pb2 import ConfigChanged, Event, PublishEventsRequest
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_shared.errors import DeadlineExceeded, MeshError
from mlxmesh_shared.events.bus import EventBus, Publish
from mlxmesh_shared.events.log import Batch, EventLog
from mlxmesh_shared.registry import Instance, Registry, follow_service
from mlxmesh_shared.rpc.channels import OpenChannel, open_channel
from mlxmesh_shared.settings import LiveSettings, MeshSettings
from mlxmesh_shared.tls import CertificateSource

MAX_EVENTS = 1024
OVERLAP_S = 5.0
CALL_TIMEOUT_S = 5.0
RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0
# Gateways that are gone, most of which will not come back.
MAX_KNOWN_GATEWAYS = 64

_log = logging.getLogger(__name__)


class EventDelivery:
    """Retains the last events, and for each gateway the number of the last one that it has.

    A new gateway gets the events that no gateway has received yet, so that none is lost while there
    is no gateway, and those of the last `overlap_s`, because it may have served before this process
    discovered it. It does not get older events that other gateways have received.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        own_id: str = "",
        open_: OpenChannel = open_channel,
        max_events: int = MAX_EVENTS,
        overlap_s: float = OVERLAP_S,
    ) -> None:
        """own_id: that of this process if it is a gateway, which does not deliver to itself."""
        self._registry = registry
        self._own_id = own_id
        self._open = open_
        self._log = EventLog(max_events)
        self._overlap_ns = round(overlap_s * 1e9)
        self._received = 0  # the number of the last event that any gateway has
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._reached: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._idle = asyncio.Event()
        self.dropped = 0
        """Events that a gateway did not get because it was too far behind or refused them."""

    def put(self, event: Event) -> None:
        """Queues an event for delivery; returns at once."""
        self._log.add(event)
        if self._own_id:
            self._received = self._log.newest

    async def run(self) -> None:
        """Delivers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            await follow_service(self._registry, "gateway", partial(self._follow, tasks))

    async def flush(self, timeout_s: float) -> None:
        """Waits until one gateway has every event, or all have those that they do not refuse.

        Waits at most timeout_s, and not at all without a gateway.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_flushed():
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            _log.warning("the last events of this process did not reach a gateway in time")

    def _is_flushed(self) -> bool:
        newest = self._log.newest
        return self._received >= newest or all(
            self._reached.get(place, 0) >= newest for place in self._tasks
        )

    async def _follow(self, tasks: asyncio.TaskGroup, gateways: Sequence[Instance]) -> None:
        named = {
            (one.instance_id, one.address): one
            for one in gateways
            if one.instance_id != self._own_id
        }
        for place in self._tasks.keys() - named.keys():
            self._tasks.pop(place).cancel()
        for place in named.keys() - self._tasks.keys():
            self._tasks[place] = tasks.create_task(self._serve(named[place]))
        self._idle.set()

    async def _serve(self, gateway: Instance) -> None:
        """Delivers to one gateway until cancelled; connects with the first event."""
        channel = None
        try:
            recent = self._log.before(time.time_ns() - self._overlap_ns)
            place = gateway.instance_id, gateway.address
            # A gateway that is back after a while continues where it was.
            start = self._reached.get(place, min(self._received, recent))
            # It may leave before it has answered anything.
            self._note_reached(place, start)
            async for batch in self._log.follow(start):
                if channel is None:
                    channel = self._open(gateway.address, role="gateway")
                if batch.lost:
                    self._drop(batch.lost, gateway, "it is too far behind")
                await self._deliver(TelemetryServiceStub(channel), batch, gateway)
                self._note_reached(place, batch.last)
        finally:
            if channel is not None:
                await channel.close()

    async def _deliver(self, stub: TelemetryServiceStub, batch: Batch, gateway: Instance) -> None:
        request = PublishEventsRequest(events=batch.events)

        async def attempt() -> None:
            await stub.PublishEvents(request, timeout=CALL_TIMEOUT_S)

        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_retryable),
            wait=wait_random_exponential(multiplier=RETRY_MIN_S, max=RETRY_MAX_S),
            reraise=True,
        )
        try:
            await retrying(attempt)
        except MeshError as error:
            self._drop(len(batch.events), gateway, error.reason)
        else:
            self._received = max(self._received, batch.last)

    def _note_reached(self, place: tuple[str, str], number: int) -> None:
        self._reached[place] = number
        self._reached.move_to_end(place)
        self._idle.set()
        if len(self._reached) > MAX_KNOWN_GATEWAYS:
            self._reached.popitem(last=False)

    def _drop(self, count: int, gateway: Instance, why: str) -> None:
        self.dropped += count
        _log.warning("%d events did not reach %s: %s", count, gateway.instance_id, why)


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, MeshError) and (error.retryable or isinstance(error, DeadlineExceeded))


FLUSH_S = 1.0

S = TypeVar("S", bound=MeshSettings)


def publish_changes(live: LiveSettings[S], publish: Publish) -> None:
    """Publishes every change of a process's settings as an event."""

    def publish_change(changed: Mapping[str, object]) -> None:
        publish(ConfigChanged(settings={name: str(value) for name, value in changed.items()}))

    live.watch(publish_change)


@contextlib.asynccontextmanager
async def publishing(
    live: LiveSettings[S],
    registry: Registry,
    *,
    service: str,
    instance_id: str,
    certificates: CertificateSource | None = None,
) -> AsyncGenerator[EventBus]:
    """The bus of a process; at the end its last events have FLUSH_S to reach a gateway."""
    bus = EventBus(service=service, instance_id=instance_id)
    delivery = EventDelivery(registry, open_=partial(open_channel, certificates=certificates))
    bus.subscribe(delivery.put)
    publish_changes(live, bus.publish)
    delivering = asyncio.create_task(delivery.run(), name="deliver-events")
    try:
        yield bus
    finally:
        await delivery.flush(FLUSH_S)
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
