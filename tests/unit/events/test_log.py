"""A log of events: every reader at its own pace, told what it missed."""

import asyncio
from collections.abc import AsyncIterator

from mlxmesh.telemetry.v1.events_pb2 import Event
from mlxmesh_shared.events import Batch, EventLog
from mlxmesh_shared.events.log import MAX_BATCH_EVENTS


def filled(count: int, most: int = 100) -> EventLog:
    log = EventLog(most)
    for number in range(1, count + 1):
        log.add(Event(event_id=str(number)))
    return log


async def take(reader: AsyncIterator[Batch]) -> tuple[list[int], int, int]:
    async with asyncio.timeout(30):
        batch = await anext(reader)
    return [int(event.event_id) for event in batch.events], batch.lost, batch.last


async def test_a_reader_gets_what_it_has_not_and_then_waits_for_more() -> None:
    log = filled(3)
    reader = log.follow(1)
    assert await take(reader) == ([2, 3], 0, 3)
    waiting = asyncio.ensure_future(take(reader))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.add(Event(event_id="4"))
    assert await waiting == ([4], 0, 4)


async def test_two_readers_do_not_take_from_each_other() -> None:
    log = filled(2)
    assert await take(log.follow(0)) == await take(log.follow(0)) == ([1, 2], 0, 2)


async def test_a_reader_that_is_too_slow_is_told_how_much_it_missed() -> None:
    log = filled(2, most=3)
    reader = log.follow(0)
    assert await take(reader) == ([1, 2], 0, 2)
    for number in range(3, 9):
        log.add(Event(event_id=str(number)))
    assert await take(reader) == ([6, 7, 8], 3, 8)
    assert (log.oldest, log.newest) == (6, 8)


async def test_much_comes_in_parts() -> None:
    reader = filled(MAX_BATCH_EVENTS + 1, most=1000).follow(0)
    assert len((await take(reader))[0]) == MAX_BATCH_EVENTS
    assert (await take(reader))[0] == [MAX_BATCH_EVENTS + 1]


def test_an_empty_log_begins_with_the_next_event() -> None:
    assert (filled(0).oldest, filled(0).newest) == (1, 0)
