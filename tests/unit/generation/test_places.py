"""Who gets a place at an upstream."""

import asyncio
import random
from contextlib import AsyncExitStack

from mlxmesh_generation.upstream.places import Places


async def test_no_place_is_lost_or_held_twice_whoever_is_cancelled() -> None:
    rng, total = random.Random(3), 4
    places = Places(total)
    held = {True: 0, False: 0}

    async def hold(flex: bool) -> None:
        async with places.holding(flex=flex):
            held[flex] += 1
            assert sum(held.values()) <= total
            assert held[True] <= 3
            try:
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                held[flex] -= 1

    tasks: list[asyncio.Task[None]] = []
    for _ in range(2000):
        tasks.append(asyncio.create_task(hold(rng.random() < 0.6)))
        if rng.random() < 0.3:
            rng.choice(tasks).cancel()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in results} == {type(None), asyncio.CancelledError}
    assert places.waiting(flex=True) == places.waiting(flex=False) == 0
    async with asyncio.timeout(30):
        async with AsyncExitStack() as stack:
            for flex in (False, True, True, True):
                await stack.enter_async_context(places.holding(flex=flex))


async def test_who_waits_in_the_standard_tier_is_before_all_of_the_flex_tier() -> None:
    places, order = Places(1), list[str]()

    async def hold(name: str, *, flex: bool) -> None:
        async with places.holding(flex=flex):
            order.append(name)

    async with places.holding(flex=True):
        waiting = [
            asyncio.create_task(hold("flex 1", flex=True)),
            asyncio.create_task(hold("flex 2", flex=True)),
            asyncio.create_task(hold("first", flex=False)),
            asyncio.create_task(hold("second", flex=False)),
        ]
        await asyncio.sleep(0)
        assert (places.waiting(flex=True), places.waiting(flex=False)) == (2, 2)
    await asyncio.gather(*waiting)
    assert order == ["first", "second", "flex 1", "flex 2"]
