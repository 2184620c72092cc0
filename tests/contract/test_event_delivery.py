"""What publishers of events may count on: the same of the fake gateway and of the real servicer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol

import pytest

from mlxmesh.telemetry.v1.events_pb2 import Event, ModelLoaded
from mlxmesh_gateway.events.event_log import GatewayEventLog
from mlxmesh_gateway.forwarding.traffic import GatewayTraffic
from mlxmesh_gateway.mesh.telemetry_servicer import TelemetryServicer
from mlxmesh_shared.errors import Internal, ServiceUnavailable
from mlxmesh_shared.events import EventBus, EventDelivery
from mlxmesh_shared.registry import Instance
from tests.fakes.event_gateway import FakeEventGateway, event_server
from tests.fakes.registry import InMemoryRegistry

OVERLAP_S = 1.0


class Gateway(Protocol):
    @property
    def events(self) -> Sequence[Event]: ...


class RealGateway(TelemetryServicer):
    """The servicer that gateways have, and what its log holds."""

    def __init__(self) -> None:
        self.log = GatewayEventLog()
        nobody_asks: Any = None
        super().__init__(
            status=nobody_asks, traces=nobody_asks, events=self.log, traffic=GatewayTraffic()
        )

    @property
    def events(self) -> Sequence[Event]:
        return list(self.log.events._events)


class Stand:
    """A publisher, and gateways that come and go."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.registry = InMemoryRegistry()
        self.bus = EventBus(service="model", instance_id="model-1")
        self.delivery = EventDelivery(self.registry, max_events=8, overlap_s=OVERLAP_S)
        self.bus.subscribe(self.delivery.put)
        self._stack = stack

    async def deliver(self) -> None:
        task = asyncio.create_task(self.delivery.run())

        async def end() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)

    async def gateway(self, name: str, servicer: Gateway) -> Instance:
        server = event_server(servicer)
        instance = Instance("gateway", name, await server.start(), pid=1)
        self._stack.push_async_callback(server.drain, 0, 0)
        await self.registry.register(instance)
        return instance

    def happens(self, *versions: int) -> None:
        for version in versions:
            self.bus.publish(ModelLoaded(model="pocket", version=version))


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        stand = Stand(stack)
        await stand.deliver()
        yield stand


MAKE = pytest.mark.parametrize("make", [FakeEventGateway, RealGateway])


async def told(gateway: Gateway, *versions: int) -> None:
    async with asyncio.timeout(30):
        while len(gateway.events) < len(versions):
            await asyncio.sleep(0.01)
    assert [event.model_loaded.version for event in gateway.events] == list(versions)


async def misses_the_second_event(stand: Stand, stays: Gateway, leaves: Gateway) -> Instance:
    """The gateway that leaves."""
    await stand.gateway("gateway-1", stays)
    instance = await stand.gateway("gateway-2", leaves)
    stand.happens(1)
    await told(leaves, 1)
    await stand.registry.deregister(instance)
    await asyncio.sleep(0.05)
    stand.happens(2)
    await told(stays, 1, 2)
    await asyncio.sleep(OVERLAP_S)
    return instance


@MAKE
async def test_every_gateway_is_told_in_order(stand: Stand, make: Callable[[], Gateway]) -> None:
    gateways = make(), make()
    for number, gateway in enumerate(gateways):
        await stand.gateway(f"gateway-{number}", gateway)
    await asyncio.sleep(0.05)
    stand.happens(1, 2, 3)
    for gateway in gateways:
        await told(gateway, 1, 2, 3)


@MAKE
async def test_what_happens_before_there_is_a_gateway_waits_for_it(
    stand: Stand, make: Callable[[], Gateway]
) -> None:
    stand.happens(1, 2)
    gateway = make()
    await stand.gateway("gateway-1", gateway)
    await told(gateway, 1, 2)


@MAKE
async def test_a_gateway_that_comes_later_gets_what_happened_just_before_and_no_history(
    stand: Stand, make: Callable[[], Gateway]
) -> None:
    first, second = make(), make()
    await stand.gateway("gateway-1", first)
    stand.happens(1)
    await told(first, 1)
    await asyncio.sleep(OVERLAP_S)
    stand.happens(2)
    await stand.gateway("gateway-2", second)
    await asyncio.sleep(OVERLAP_S)
    stand.happens(3)
    await told(first, 1, 2, 3)
    await told(second, 2, 3)


@MAKE
async def test_a_gateway_that_was_away_goes_on_where_it_was(
    stand: Stand, make: Callable[[], Gateway]
) -> None:
    leaves = make()
    instance = await misses_the_second_event(stand, make(), leaves)
    await stand.registry.register(instance)
    await told(leaves, 1, 2)


async def test_a_gateway_that_leaves_before_its_first_answer_goes_on_there(stand: Stand) -> None:
    leaves = FakeEventGateway()
    leaves.failures = [ServiceUnavailable("the answer is lost")] * 1000
    instance = await misses_the_second_event(stand, FakeEventGateway(), leaves)
    leaves.failures.clear()
    await stand.registry.register(instance)
    await told(leaves, 1, 2)


@MAKE
async def test_what_a_lost_gateway_did_not_take_goes_to_the_next(
    stand: Stand, make: Callable[[], Gateway]
) -> None:
    gone = Instance("gateway", "gateway-1", "127.0.0.1:1", pid=1)
    await stand.registry.register(gone)
    stand.happens(1)
    await asyncio.sleep(0.05)
    await stand.registry.deregister(gone)
    gateway = make()
    await stand.gateway("gateway-2", gateway)
    await told(gateway, 1)


@MAKE
async def test_an_event_told_twice_is_kept_once(stand: Stand, make: Callable[[], Gateway]) -> None:
    gateway = make()
    await stand.gateway("gateway-1", gateway)
    stand.bus.subscribe(stand.delivery.put)  # each event twice
    stand.happens(1, 2)
    await told(gateway, 1, 2)


async def test_an_answer_that_got_lost_leads_to_a_repeat_and_no_second_event(stand: Stand) -> None:
    gateway = FakeEventGateway()
    gateway.failures = [ServiceUnavailable("lost"), ServiceUnavailable("lost")]
    await stand.gateway("gateway-1", gateway)
    stand.happens(1)
    await told(gateway, 1)
    await stand.delivery.flush(10)
    assert (gateway.calls, stand.delivery.dropped) == (3, 0)


async def test_what_a_gateway_refuses_is_dropped_and_counted(stand: Stand) -> None:
    gateway = FakeEventGateway()
    gateway.failures = [Internal("never")]
    await stand.gateway("gateway-1", gateway)
    stand.happens(1)
    await told(gateway, 1)
    async with asyncio.timeout(30):
        await stand.delivery.flush(60)
    stand.happens(2)
    await told(gateway, 1, 2)
    assert (gateway.calls, stand.delivery.dropped) == (2, 1)


async def test_what_nobody_takes_is_bounded_and_counted(stand: Stand) -> None:
    stand.happens(*range(1, 12))
    gateway = FakeEventGateway()
    await stand.gateway("gateway-1", gateway)
    await told(gateway, *range(4, 12))
    assert stand.delivery.dropped == 3


async def test_a_flush_waits_for_nobody_where_there_is_no_gateway(stand: Stand) -> None:
    stand.happens(1)
    async with asyncio.timeout(30):
        await stand.delivery.flush(60)


async def test_a_flush_gives_up_on_a_gateway_that_is_lost(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    await stand.registry.register(Instance("gateway", "gateway-1", "127.0.0.1:1", pid=1))
    stand.happens(1)
    await asyncio.sleep(0.05)
    await stand.delivery.flush(0.1)
    assert "did not reach a gateway in time" in caplog.text
