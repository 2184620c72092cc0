"""What is done after a call: soon, all at once, and each whatever becomes of the others."""

import asyncio

import pytest

from mlxmesh_shared.rpc.access_log import DeferredTasks


async def test_it_is_done_in_order_and_not_at_once() -> None:
    done: list[int] = []
    deferred = DeferredTasks(delay_s=0.01)
    for number in range(3):
        deferred.add(lambda number=number: done.append(number))
    assert done == []
    async with asyncio.timeout(30):
        while not done:
            await asyncio.sleep(0.005)
    assert done == [0, 1, 2]


async def test_catching_up_leaves_nothing_for_later() -> None:
    done: list[str] = []
    deferred = DeferredTasks(delay_s=0.01)
    deferred.add(lambda: done.append("first"))
    deferred.flush()
    assert done == ["first"]
    deferred.add(lambda: done.append("second"))
    async with asyncio.timeout(30):
        while len(done) < 2:
            await asyncio.sleep(0.005)
    assert done == ["first", "second"]


async def test_a_failure_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    deferred = DeferredTasks()
    deferred.add(lambda: 1 / 0)
    deferred.add(lambda: done.append("the rest"))
    deferred.flush()
    assert done == ["the rest"]
    assert "ZeroDivisionError" in caplog.text
