"""News of attempts: kept until confirmed, sent again, bounded."""

import asyncio

import pytest

from mlxmesh_worker import outbox as module
from mlxmesh_worker.outbox import Outbox
from mlxmesh_worker.work import AttemptKey

ONE, TWO = AttemptKey("job-1", 1), AttemptKey("job-2", 1)


async def test_updates_are_sent_in_order_and_forgotten_once_confirmed() -> None:
    outbox = Outbox()
    for number in range(5):
        await outbox.put(ONE, number, 1)
    assert outbox.take(1) == [0, 1, 2, 3, 4]
    await outbox.put(ONE, 5, 1)
    assert outbox.take(2) == [5]
    outbox.confirm(1)
    assert len(outbox) == 1
    assert outbox.attempts == {ONE}
    outbox.confirm(2)
    assert not outbox.attempts
    await outbox.wait_empty()


async def test_a_new_stream_begins_with_what_was_not_confirmed() -> None:
    outbox = Outbox()
    for number in range(4):
        await outbox.put(ONE, number, 1)
    outbox.take(1)
    await outbox.put(ONE, 4, 1)
    outbox.rewind()
    assert outbox.news.is_set()
    assert outbox.take(1) == [0, 1, 2, 3, 4]


async def test_a_message_has_bounds() -> None:
    outbox = Outbox(max_updates=10_000, max_bytes=2**40)
    for number in range(module.MAX_UPDATES + 1):
        await outbox.put(ONE, number, 1)
    assert len(outbox.take(1)) == module.MAX_UPDATES
    assert outbox.news.is_set(), "the rest follows at once"
    assert len(outbox.take(2)) == 1
    for number in range(3):
        await outbox.put(ONE, number, module.MAX_MESSAGE_BYTES)
    assert outbox.take(3) == [0]


@pytest.mark.parametrize("size_bytes", [1, 100])
async def test_it_is_bounded_but_for_ends(size_bytes: int) -> None:
    outbox = Outbox(max_updates=3, max_bytes=101)
    while not outbox.full:
        await outbox.put(ONE, "output", size_bytes)
    waiting = asyncio.create_task(outbox.put(ONE, "late", 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.put_now(TWO, "end", 1)
    outbox.take(1)
    outbox.confirm(1)
    await waiting
    assert outbox.take(2) == ["late"]


async def test_dropped_attempts_are_forgotten_wherever_they_are() -> None:
    outbox = Outbox()
    await outbox.put(ONE, "a", 1)
    await outbox.put(TWO, "b", 1)
    outbox.take(1)
    await outbox.put(ONE, "c", 1)
    await outbox.put(TWO, "d", 1)
    outbox.drop([ONE])
    assert outbox.attempts == {TWO}
    outbox.rewind()
    assert outbox.take(1) == ["b", "d"]


async def test_whoever_waits_for_a_confirmation_is_told_or_cancelled() -> None:
    outbox = Outbox()
    stored = asyncio.create_task(outbox.put_and_wait(ONE, "a", 1))
    await asyncio.sleep(0)
    outbox.take(1)
    assert not stored.done()
    outbox.confirm(1)
    await stored
    dropped = asyncio.create_task(outbox.put_and_wait(ONE, "b", 1))
    await asyncio.sleep(0)
    outbox.drop([ONE])
    with pytest.raises(asyncio.CancelledError):
        await dropped
