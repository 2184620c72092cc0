"""Instances come, go, die and drain; calls that may move do, and nothing else does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mlxmesh_shared.errors import Draining, Internal, ServiceUnavailable
from mlxmesh_shared.registry import Instance
from tests.fakes.public_services import FakeGeneration, generation_server


async def test_a_dead_instance_costs_no_call(stand: Any) -> None:
    dead = Instance("generation", "generation-0", "127.0.0.1:1", pid=1)
    await stand.registry.register(dead)
    alive = await stand.generation("generation-1")
    client = await stand.client(await stand.gateway(), attempts=1)

    for _ in range(5):
        assert (await client.complete("pocket", prompt="a")).text == "a"
        events = [event async for event in client.generate("pocket", prompt="a b")]
        assert events[-1].finished is not None

    assert len(alive.requests) == 10


async def test_a_draining_instance_hands_its_new_calls_on(stand: Any) -> None:
    first, second = await stand.generation("generation-1"), await stand.generation("generation-2")
    first.failures = [Draining("leaving")]
    client = await stand.client(await stand.gateway(), attempts=1)

    assert (await client.complete("pocket", prompt="a")).text == "a"
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_a_broken_stream_is_not_started_again_elsewhere(stand: Any) -> None:
    first, second = await stand.generation("generation-1"), await stand.generation("generation-2")
    first.break_after = second.break_after = 1
    client = await stand.client(await stand.gateway(), attempts=1)

    stream = client.generate("pocket", prompt="a b c")
    assert [(await anext(stream)).text for _ in range(2)] == ["", "a "]
    with pytest.raises(Internal):
        await anext(stream)
    assert len(first.requests) + len(second.requests) == 1


async def test_a_stream_whose_last_instance_dies_ends_as_unavailable(stand: Any) -> None:
    servicer = FakeGeneration()
    servicer.go_on.clear()
    server = generation_server(servicer)
    await stand.announce("generation", "generation-1", server)
    client = await stand.client(await stand.gateway(resume_wait_s=0.3), attempts=1)

    stream = client.generate("pocket", prompt="a b")
    assert [(await anext(stream)).text for _ in range(2)] == ["", "a "]
    await server.drain(grace_s=0, settle_s=0)
    with pytest.raises(ServiceUnavailable):
        await anext(stream)


async def test_a_write_is_tried_once(stand: Any) -> None:
    models = await stand.models()
    models.failures = [Draining("leaving")]
    client = await stand.client(await stand.gateway())

    with pytest.raises(Draining):
        await client.delete_model("pocket")
    assert len(models.calls) == 1


async def test_new_calls_go_to_the_instance_with_least_to_do(stand: Any) -> None:
    servicers = [await stand.generation(f"generation-{index}") for index in (1, 2)]
    for servicer in servicers:
        servicer.go_on.clear()
    client = await stand.client(await stand.gateway())

    streams = [client.generate("pocket", prompt="a b") for _ in range(4)]
    for stream in streams:
        await anext(stream)

    assert [len(servicer.requests) for servicer in servicers] == [2, 2]
    for stream in streams:
        await stream.aclose()


async def test_instances_are_followed_as_they_change(stand: Any) -> None:
    client = await stand.client(await stand.gateway(), attempts=1)
    with pytest.raises(ServiceUnavailable):
        await client.complete("pocket", prompt="a")

    await stand.generation("generation-1")

    async def served() -> bool:
        try:
            return (await client.complete("pocket", prompt="a")).text == "a"
        except ServiceUnavailable:
            return False

    await _eventually(served)


async def test_an_empty_registry_stops_nothing_that_runs(stand: Any) -> None:
    servicer = FakeGeneration()
    instance = await stand.announce("generation", "generation-1", generation_server(servicer))
    address = await stand.gateway()
    client = await stand.client(address, attempts=1)
    await stand.registry.deregister(instance)
    channel = await stand.channel(address)

    async def not_serving() -> bool:
        return (
            await stand.health(channel, "mlxmesh.generation.v1.GenerationService") == "NOT_SERVING"
        )

    await _eventually(not_serving)
    assert (await client.complete("pocket", prompt="a")).text == "a"


async def test_a_stream_goes_on_at_an_instance_that_left_the_registry(stand: Any) -> None:
    servicer = FakeGeneration()
    servicer.go_on.clear()
    instance = await stand.announce("generation", "generation-1", generation_server(servicer))
    client = await stand.client(await stand.gateway())
    stream = client.generate("pocket", prompt="a b c")
    first = [await anext(stream), await anext(stream)]

    other = await stand.generation("generation-2")
    await stand.registry.deregister(instance)

    async def moved() -> bool:
        await client.complete("pocket", prompt="x")
        return bool(other.requests)

    await _eventually(moved)
    servicer.go_on.set()
    events = first + [event async for event in stream]
    assert "".join(event.text for event in events) == "a b c "


async def test_a_failing_watch_is_taken_up_again(stand: Any) -> None:
    watch, failures = stand.registry.watch, 1

    async def shaky(service: str) -> Any:
        nonlocal failures
        if service == "generation" and failures:
            failures -= 1
            raise OSError("the registry is away")
        async for instances in watch(service):
            yield instances

    stand.registry.watch = shaky
    client = await stand.client(await stand.gateway(), attempts=1)
    await stand.generation("generation-1")

    async def served() -> bool:
        try:
            return (await client.complete("pocket", prompt="a")).text == "a"
        except ServiceUnavailable:
            return False

    await _eventually(served)
    assert failures == 0


async def _eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)
