import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlxmesh_runtime import change_feed
from mlxmesh_runtime.change_feed import Change, ChangeFeed
from mlxmesh_runtime.engine_record import EngineRecord, EngineSpec
from mlxmesh_runtime.lifecycle import EngineState
from mlxmesh_shared.errors import ServiceUnavailable


def record(engine_id: str, state: EngineState = EngineState.READY) -> EngineRecord:
    spec = EngineSpec(engine_id=engine_id, model="m", model_version=1, model_dir=Path("/m"))
    return EngineRecord(spec=spec, state=state)


async def take(watch: AsyncIterator[Change], count: int) -> list[tuple[int, str, str]]:
    async with asyncio.timeout(30):
        changes = [await anext(watch) for _ in range(count)]
    return [
        (change.sequence, change.record.spec.engine_id, change.record.state)
        if change.record
        else (change.sequence, "", "synced")
        for change in changes
    ]


async def test_a_watch_yields_current_records_the_mark_and_changes() -> None:
    feed = ChangeFeed()
    feed.publish(record("a", EngineState.STARTING))
    feed.publish(record("b"))
    feed.publish(record("a"))
    watch = feed.watch()
    assert await take(watch, 3) == [(3, "a", "READY"), (2, "b", "READY"), (3, "", "synced")]
    feed.publish(record("b", EngineState.DRAINING))
    assert await take(watch, 1) == [(4, "b", "DRAINING")]


async def test_slow_watcher_gets_the_newest_of_each_engine() -> None:
    feed = ChangeFeed()
    watch = feed.watch()
    assert await take(watch, 1) == [(0, "", "synced")]
    for _ in range(1000):
        feed.publish(record("a", EngineState.STARTING))
        feed.publish(record("b", EngineState.STARTING))
    feed.publish(record("a"))
    assert await take(watch, 2) == [(2000, "b", "STARTING"), (2001, "a", "READY")]


async def test_a_stopped_engine_is_published_once_and_removed() -> None:
    feed = ChangeFeed()
    feed.publish(record("a"))
    watch = feed.watch()
    await take(watch, 2)
    feed.publish(record("a", EngineState.STOPPED))
    assert await take(watch, 1) == [(2, "a", "STOPPED")]
    assert await take(feed.watch(), 1) == [(2, "", "synced")]


async def test_a_watcher_that_falls_behind_gets_an_error() -> None:
    feed = ChangeFeed()
    watch = feed.watch()
    await take(watch, 1)
    for number in range(change_feed.MAX_PENDING_ENGINES + 1):
        feed.publish(record(f"e{number}", EngineState.STOPPED))
    with pytest.raises(ServiceUnavailable, match="start a new one"):
        await take(watch, 1)


async def test_a_watcher_that_left_costs_nothing() -> None:
    feed = ChangeFeed()
    watch = feed.watch()
    await take(watch, 1)
    await watch.aclose()  # pyright: ignore[reportAttributeAccessIssue]
    for number in range(change_feed.MAX_PENDING_ENGINES + 1):
        feed.publish(record(f"e{number}"))
    assert len(await take(feed.watch(), 5)) == 5


async def test_a_shortage_of_memory_is_a_change_without_a_record() -> None:
    feed = ChangeFeed()
    watch = feed.watch()
    assert await anext(watch) == Change(0, None)
    for shortage_bytes in (5, 7):
        feed.announce_shortage(shortage_bytes)
    assert await anext(watch) == Change(2, None, 7)  # only the newest is kept
    feed.announce_shortage(0)
    assert await anext(watch) == Change(3, None, 0)
