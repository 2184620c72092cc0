"""Brings the events of a process to every gateway: at least once, in order for each of them."""

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

MAX_KEPT = 1024
OVERLAP_S = 5.0
CALL_TIMEOUT_S = 5.0
RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0
# Of gateways, most of which will not come back.
MAX_REMEMBERED = 64

_log = logging.getLogger(__name__)


class Delivery:
    """Keeps the last events, and for each gateway how far it has them.

    A gateway that is new gets what no gateway has taken yet, so what happens while there is none
    is not lost, and what happened within `overlap_s`: it may have served before it was noticed
    here. What others have taken before is history, which it does not get.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        own_id: str = "",
        open_: OpenChannel = open_channel,
        most_kept: int = MAX_KEPT,
        overlap_s: float = OVERLAP_S,
    ) -> None:
        """`own_id` is a gateway's own, which needs no delivery to itself."""
        self._registry = registry
        self._own_id = own_id
        self._open = open_
        self._log = EventLog(most_kept)
        self._overlap_ns = round(overlap_s * 1e9)
        self._taken = 0  # by any gateway: the number of the last event
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._reached: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._idle = asyncio.Event()
        self.dropped = 0
        """Deliveries that were given up: the gateway was too far behind, or refused the events."""

    def put(self, event: Event) -> None:
        """Takes an event for delivery; returns at once."""
        self._log.add(event)
        if self._own_id:
            self._taken = self._log.newest

    async def run(self) -> None:
        """Delivers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            told = partial(self._follow, tasks)
            await follow_service(self._registry, "gateway", told)

    async def flush(self, timeout_s: float) -> None:
        """Waits until some gateway has every event, or all have those that they do not refuse.

        Not longer than timeout_s, and not at all without a gateway.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_flushed():
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            _log.warning("the last events of this process reached no gateway in time")

    def _is_flushed(self) -> bool:
        newest = self._log.newest
        return self._taken >= newest or all(
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
            # One that was away for a while goes on where it was.
            start = self._reached.get(place, min(self._taken, recent))
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
            retry=retry_if_exception(_may_go_well_later),
            wait=wait_random_exponential(multiplier=RETRY_MIN_S, max=RETRY_MAX_S),
            reraise=True,
        )
        try:
            await retrying(attempt)
        except MeshError as error:
            self._drop(len(batch.events), gateway, error.reason)
        else:
            self._taken = max(self._taken, batch.last)

    def _note_reached(self, place: tuple[str, str], number: int) -> None:
        self._reached[place] = number
        self._reached.move_to_end(place)
        self._idle.set()
        if len(self._reached) > MAX_REMEMBERED:
            self._reached.popitem(last=False)

    def _drop(self, count: int, gateway: Instance, why: str) -> None:
        self.dropped += count
        _log.warning("%d events did not reach %s: %s", count, gateway.instance_id, why)


def _may_go_well_later(error: BaseException) -> bool:
    return isinstance(error, MeshError) and (error.retryable or isinstance(error, DeadlineExceeded))


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
