"""The mailbox of a watcher: bounded, in order, and never without the last state."""

import asyncio

import pytest

from mlxmesh_gateway.live.mailbox import MAX_IN_ORDER, Mailbox


def mailbox(interval_s: float = 0.0, *, now_s: list[float] | None = None) -> Mailbox[str]:
    times = now_s if now_s is not None else [1.0]
    return Mailbox(interval_s, paced=frozenset({"paced"}), clock=lambda: times[0])


async def test_a_newer_item_takes_the_place_of_an_older_one() -> None:
    box = mailbox()
    for value in range(1000):
        box.put("models", "a", value)
    box.put("models", "b", "other")
    assert await box.take() == ("models", [999, "other"])


async def test_an_item_that_was_replaced_comes_behind_the_others() -> None:
    box = mailbox()
    box.put("models", "a", 1)
    box.put("models", "b", 2)
    box.put("models", "a", 3)
    assert await box.take() == ("models", [2, 3])


async def test_an_older_item_does_not_replace_a_newer_one() -> None:
    box = mailbox()
    box.put("requests", "a", "new")
    box.put_older("requests", "a", "old")
    box.put_older("requests", "b", "old")
    assert await box.take() == ("requests", ["new", "old"])


async def test_a_paced_topic_is_taken_once_in_an_interval() -> None:
    now_s = [1.0]
    box = mailbox(0.05, now_s=now_s)
    box.put("paced", "a", 1)
    assert await box.take() == ("paced", [1])
    box.put("paced", "a", 2)
    box.put("models", "a", 3)
    assert await box.take() == ("models", [3])  # the other one is not due
    now_s[0] = 1.06
    assert await box.take() == ("paced", [2])


async def test_items_in_order_wait_for_room() -> None:
    box = mailbox()
    for number in range(MAX_IN_ORDER):
        await box.put_in_order("events", number)
    waiting = asyncio.create_task(box.put_in_order("events", "late"))
    await asyncio.sleep(0)
    assert not waiting.done()
    _, items = await box.take()
    assert items == list(range(MAX_IN_ORDER))
    await waiting
    assert await box.take() == ("events", ["late"])


async def test_taking_waits_for_the_first_item() -> None:
    box = mailbox()
    taking = asyncio.create_task(box.take())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.shield(taking)
    box.put("models", "a", 1)
    assert await taking == ("models", [1])
