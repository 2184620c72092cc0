"""Events and traffic through real gateways: who hears of what, and what hostile callers get."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from mlxmesh.telemetry.v1 import events_pb2 as wire
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_client import MeshClient
from mlxmesh_gateway.mesh.telemetry_servicer import MAX_EVENT_BYTES
from mlxmesh_shared.errors import InvalidArgument, MeshError, ServiceUnavailable, TooManyRequests
from mlxmesh_shared.events import make_event
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import open_channel

ENGINE = Instance("engine", "engine-1", "127.0.0.1:1", pid=1)


def loaded(version: int) -> wire.Event:
    payload = wire.ModelLoaded(model="pocket", version=version)
    about = f"pocket@{version}"
    return make_event(payload, service="model", instance_id="model-1", correlation_id=about)


async def stub(stack: AsyncExitStack, address: str) -> TelemetryServiceStub:
    return TelemetryServiceStub(await stack.enter_async_context(open_channel(address)))


async def publish(address: str, *events: wire.Event) -> None:
    async with AsyncExitStack() as stack:
        telemetry = await stub(stack, address)
        await telemetry.PublishEvents(wire.PublishEventsRequest(events=events))


async def until_named(news: AsyncIterator[wire.WatchEventsResponse], name: str) -> wire.Event:
    async with asyncio.timeout(30):
        async for one in news:
            if one.event.name == name:
                return one.event
    raise AssertionError


async def kept(client: MeshClient, **wanted: Any) -> list[wire.Event]:
    """The events that the gateway has kept."""
    found: list[wire.Event] = []
    async with aclosing(client.watch_events(**wanted)) as news:
        async for one in news:
            if one.HasField("synced"):
                return found
            found.append(one.event)
    raise AssertionError


async def test_what_a_service_publishes_is_watched_in_order(stand: Any) -> None:
    address = await stand.gateway()
    client = await stand.client(address)
    first, second = loaded(1), loaded(2)
    await publish(address, first, second, first)
    seen = await kept(client, names=["model.*"])
    assert [event.event_id for event in seen] == [first.event_id, second.event_id]
    assert seen[1].sequence == seen[0].sequence + 1
    assert seen[0].model_loaded == first.model_loaded


async def test_a_watch_that_comes_back_misses_nothing_and_sees_nothing_twice(stand: Any) -> None:
    address = await stand.gateway()
    client = await stand.client(address)
    watch = client.watch_events(names=["model.*"])
    await publish(address, *(loaded(number) for number in range(1, 4)))
    seen = [await until_named(watch, "model.loaded") for _ in range(2)]
    await watch.aclose()
    await publish(address, loaded(4))
    again = client.watch_events(after_sequence=seen[-1].sequence, names=["model.*"])
    seen += [await until_named(again, "model.loaded") for _ in range(2)]
    await again.aclose()
    assert [event.model_loaded.version for event in seen] == [1, 2, 3, 4]


async def test_another_gateways_log_is_told_by_a_gap(stand: Any) -> None:
    client = await stand.client(await stand.gateway())
    async with aclosing(client.watch_events(after_sequence=7, log_id="another")) as news:
        first = await anext(news)
    assert first.gap.reason == wire.GAP_REASON_LOG_MISMATCH
    assert first.log_id not in ("", "another")


async def test_instances_that_come_and_go_are_told_once_at_every_gateway(stand: Any) -> None:
    first = await stand.client(await stand.gateway())
    second = await stand.client(await stand.gateway())
    watches = [client.watch_events(names=["instance.*"]) for client in (first, second)]
    await stand.registry.register(ENGINE)
    ids: set[str] = set()
    for watch in watches:
        event = await until_named(watch, "instance.registered")
        while event.correlation_id != "engine-1":
            event = await until_named(watch, "instance.registered")
        ids.add(event.event_id)
        assert event.instance_id == "gateway-1"
        assert event.instance_registered.address == ENGINE.address
    assert len(ids) == 1
    await stand.registry.register(ENGINE.as_draining())
    for watch in watches:
        assert (await until_named(watch, "instance.draining")).correlation_id == "engine-1"
    await stand.registry.deregister(ENGINE)
    for watch in watches:
        left = await until_named(watch, "instance.deregistered")
        assert left.instance_deregistered.service == "engine"
        await watch.aclose()


async def test_when_the_gateway_that_told_of_instances_leaves_the_next_one_does(stand: Any) -> None:
    async with stand.running_gateway() as (_, leaving):
        client = await stand.client(await stand.gateway())
        watch = client.watch_events(names=["instance.deregistered"])
        leaving.set()
        left = await until_named(watch, "instance.deregistered")
        await watch.aclose()
    assert (left.correlation_id, left.instance_id) == ("gateway-1", "gateway-2")


async def test_a_breaker_that_opens_and_closes_is_told(stand: Any) -> None:
    await stand.registry.register(Instance("generation", "generation-1", "127.0.0.1:1", pid=1))
    client = await stand.client(await stand.gateway(), attempts=1)
    watch = client.watch_events(names=["breaker.*"])
    with pytest.raises(ServiceUnavailable):
        await client.complete("pocket", prompt="a")
    opened = await until_named(watch, "breaker.opened")
    assert opened.breaker_opened.instance_id == opened.correlation_id == "generation-1"
    assert opened.breaker_opened.failures >= 1
    await watch.aclose()


async def test_a_gateway_that_refuses_calls_tells_so(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    client = await stand.client(await stand.gateway(max_concurrent_rpcs=2), attempts=1)
    watch = client.watch_events(names=["gateway.*"])
    async with aclosing(client.generate("pocket", prompt="a b")) as stream:
        await anext(stream)
        reading = asyncio.ensure_future(until_named(watch, "gateway.overloaded"))
        await asyncio.sleep(0.1)
        for _ in range(3):
            with pytest.raises(TooManyRequests):
                await client.count_tokens("pocket", prompt="a")
        event = await reading
    assert (event.gateway_overloaded.refused, event.gateway_overloaded.running) == (1, 2)
    await watch.aclose()


async def test_a_follower_goes_on_when_its_gateway_is_back_and_says_what_it_may_miss(
    stand: Any,
) -> None:
    async with stand.running_gateway() as (address, _):
        client = await stand.client(address)
        lost: list[MeshError] = []
        news = client.follow_events(on_lost=lost.append, names=["model.*"])
        await publish(address, loaded(1))
        assert (await until_named(news, "model.loaded")).model_loaded.version == 1
    waiting = asyncio.ensure_future(anext(news))
    await stand.gateway(listen=address)
    async with asyncio.timeout(20):
        while not (await waiting).HasField("gap"):
            waiting = asyncio.ensure_future(anext(news))
    await publish(address, loaded(2))
    assert (await until_named(news, "model.loaded")).model_loaded.version == 2
    assert lost
    await news.aclose()


HOSTILE_EVENTS: dict[str, Any] = {
    "no id": ({"event_id": ""}, "events[0].event_id"),
    "an id with a line break": ({"event_id": "a\nb"}, "events[0].event_id"),
    "no name": ({"name": ""}, "events[0].name"),
    "a name that is none": ({"name": "rm -rf"}, "events[0].name"),
    "a service that is none": ({"service": "../x"}, "events[0].service"),
    "an instance that is none": ({"instance_id": "a b"}, "events[0].instance_id"),
    "a correlation of escapes": ({"correlation_id": "\x1b[2J"}, "events[0].correlation_id"),
    "a time before time": ({"time": {"seconds": -(2**62)}}, "events[0].time"),
    "a time after time": ({"time": {"seconds": 2**62}}, "events[0].time"),
    "a time with too many nanoseconds": ({"time": {"nanos": -5}}, "events[0].time"),
    "too large": ({"model_loaded": {"model": "x" * MAX_EVENT_BYTES}}, "events[0]"),
}


@pytest.mark.parametrize("what", HOSTILE_EVENTS)
async def test_a_hostile_event_is_refused_by_its_field_and_none_of_its_batch_is_kept(
    stand: Any, what: str
) -> None:
    changed, field = HOSTILE_EVENTS[what]
    address = await stand.gateway()
    event = loaded(1)
    for name, value in changed.items():
        event.ClearField(name)
        event.MergeFrom(wire.Event(**{name: value}))
    with pytest.raises(InvalidArgument) as caught:
        await publish(address, event, loaded(2))
    assert caught.value.field.startswith(field)
    assert await kept(await stand.client(address), names=["model.*"]) == []


async def test_an_empty_and_an_endless_batch_are_refused(stand: Any) -> None:
    address = await stand.gateway()
    for events in ([], [loaded(1)] * 257):
        with pytest.raises(InvalidArgument) as caught:
            await publish(address, *events)
        assert caught.value.field == "events"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"log_id": "a/b"}, "log_id"),
        ({"log_id": "x" * 65}, "log_id"),
        ({"names": ["model"]}, "names[0]"),
        ({"names": ["*"]}, "names[0]"),
        ({"names": ["model.*"] * 33}, "names"),
        ({"services": ["gateway", "client"]}, "services[1]"),
        ({"services": ["gateway"] * 9}, "services"),
        ({"correlation_id": "a b"}, "correlation_id"),
        ({"correlation_id": "x" * 201}, "correlation_id"),
    ],
)
async def test_a_hostile_watch_is_refused_by_its_field(
    stand: Any, asked: dict[str, Any], field: str
) -> None:
    client = await stand.client(await stand.gateway())
    with pytest.raises(InvalidArgument) as caught:
        await anext(client.watch_events(**asked))
    assert caught.value.field == field


async def test_a_number_that_no_log_has_reached_is_another_log(stand: Any) -> None:
    client = await stand.client(await stand.gateway())
    async with aclosing(client.watch_events(after_sequence=2**64 - 1)) as news:
        assert (await anext(news)).gap.reason == wire.GAP_REASON_LOG_MISMATCH


async def test_traffic_of_all_gateways_is_added_up(stand: Any) -> None:
    await stand.generation()
    clients = [await stand.client(await stand.gateway(), attempts=1) for _ in range(2)]
    for client in clients:
        async for _ in client.generate("pocket", prompt="a b c"):
            pass
    await clients[0].complete("pocket", prompt="a b")
    state = await clients[1].mesh_state()
    every = state.traffic[0]
    assert (every.model, every.requests, every.errors, every.running) == ("", 3, 0, 0)
    pocket = next(one for one in state.traffic if one.model == "pocket")
    assert (pocket.requests, pocket.time_to_first_token.count) == (3, 2)
    assert pocket.between_messages.count == 2 * 3
    own = {one.instance_id: one.traffic.requests for one in state.instances if one.traffic.requests}
    assert own == {"gateway-1": 2, "gateway-2": 1}
