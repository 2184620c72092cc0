"""Engines and runtimes that are asked to leave: withdrawn first, replaced, nothing counted as a
failure."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh_runtime.hand_over import hand_over
from mlxmesh_shared.errors import Draining
from mlxmesh_shared.registry.port import Instance
from tests.draining import drain
from tests.fakes.registry import InMemoryRegistry
from tests.integration.runtime.harness import DRAINING, RuntimeUnderTest, alive, until_gone

Ask = Callable[[pb.Engine], Awaitable[None]]
OWN = Instance("runtime", "old", "127.0.0.1:1", 1, {"device": "cpu"})
OTHER = replace(OWN, instance_id="new")


async def by_call(engine: pb.Engine) -> None:
    await drain(engine.address)


async def by_signal(engine: pb.Engine) -> None:
    os.kill(engine.pid, signal.SIGTERM)


@pytest.mark.parametrize("ask", [by_call, by_signal])
async def test_a_draining_engine_is_replaced(runtime: RuntimeUnderTest, ask: Ask) -> None:
    runtime.behave(drain_s=0.5)
    first = await runtime.start_ready()
    await ask(first)

    leaving = await runtime.until_state(DRAINING)
    assert leaving.pid == first.pid
    second = await runtime.until_ready_again(restarts=1)
    assert second.pid != first.pid
    assert not second.HasField("last_failure")
    assert not alive(first.pid)
    [instance] = await runtime.registry.resolve("engine")
    assert instance.pid == second.pid


async def test_a_draining_engine_is_deregistered_while_it_finishes(
    runtime: RuntimeUnderTest,
) -> None:
    runtime.behave(drain_s=1.0)
    first = await runtime.start_ready()
    await drain(first.address)
    await runtime.until_state(DRAINING)
    async with asyncio.timeout(30):
        while await runtime.registered():
            await asyncio.sleep(0.01)
    assert alive(first.pid)
    await runtime.stop()
    await until_gone(first.pid)


async def test_a_runtime_without_a_successor_ends_at_once(runtime: RuntimeUnderTest) -> None:
    registry = InMemoryRegistry()
    await registry.register(OWN)
    await registry.register(OTHER.as_draining())
    await runtime.start_ready()
    async with asyncio.timeout(30):
        await hand_over(registry, OWN, runtime.engines, timeout_s=60)
    with pytest.raises(Draining):
        await runtime.start("e2")


async def test_a_runtime_waits_until_its_engines_are_stopped(runtime: RuntimeUnderTest) -> None:
    registry = InMemoryRegistry()
    await registry.register(OWN)
    await registry.register(OTHER)
    await runtime.start_ready()
    leaving = asyncio.create_task(hand_over(registry, OWN, runtime.engines, timeout_s=60))
    async with asyncio.timeout(30):
        while not any(instance.draining for instance in await registry.resolve("runtime")):
            await asyncio.sleep(0.01)
    assert [instance.draining for instance in await registry.resolve("runtime")] == [False, True]
    await asyncio.sleep(0.3)
    assert not leaving.done()
    await runtime.stop()
    async with asyncio.timeout(30):
        await leaving


async def test_a_hand_over_is_limited_in_time(runtime: RuntimeUnderTest) -> None:
    registry = InMemoryRegistry()
    await registry.register(OTHER)
    await runtime.start_ready()
    async with asyncio.timeout(30):
        await hand_over(registry, OWN, runtime.engines, timeout_s=0.2)
    assert await runtime.registered() == ["e1"]
