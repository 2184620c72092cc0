import asyncio

from mlxmesh_engine.scheduling.request import FinishReason, Load, Update
from mlxmesh_engine.service.outbox import Outbox
from mlxmesh_shared.errors import QueueFull


def load(waiting: int) -> Load:
    return Load(1, waiting, 8, 8)


async def test_news_of_a_reader_that_is_behind_become_one_entry_per_sequence() -> None:
    subject = Outbox()
    subject.put([Update(1, accepted=True), Update(2, accepted=True)], load(1))
    subject.put([Update(1, prefilled_tokens=5), Update(2, prefilled_tokens=3)], load(2))
    for token in (7, 8, 9):
        subject.put([Update(1, token_ids=(token,))], load(3))
    subject.put([Update(1, token_ids=(10,), finish_reason=FinishReason.STOP)], load(4))
    taken = await subject.get()
    assert taken is not None
    updates, last_load = taken
    assert updates == [
        Update(
            1,
            accepted=True,
            prefilled_tokens=5,
            token_ids=(7, 8, 9, 10),
            finish_reason=FinishReason.STOP,
        ),
        Update(2, accepted=True, prefilled_tokens=3),
    ]
    assert last_load == load(4)


async def test_a_number_used_again_is_another_sequence() -> None:
    subject = Outbox()
    subject.put([Update(1, token_ids=(5,), finish_reason=FinishReason.STOP)])
    subject.put([Update(1, accepted=True), Update(1, token_ids=(6,))])
    taken = await subject.get()
    assert taken is not None
    assert [update.token_ids for update in taken[0]] == [(5,), (6,)]


async def test_a_refusal_does_not_touch_the_living_sequence() -> None:
    subject = Outbox()
    subject.put([Update(1, token_ids=(5,))])
    subject.put_unmerged(Update(1, error=QueueFull("full")))
    subject.put([Update(1, token_ids=(6,))])
    taken = await subject.get()
    assert taken is not None
    assert [(update.token_ids, update.last) for update in taken[0]] == [((5, 6), False), ((), True)]


async def test_take_waits_for_news() -> None:
    subject = Outbox()
    waiting = asyncio.create_task(subject.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    subject.put([Update(1, accepted=True)])
    assert await waiting == ([Update(1, accepted=True)], None)
    again = asyncio.create_task(subject.get())
    await asyncio.sleep(0)
    assert not again.done()
    subject.close()
    assert await again is None


async def test_what_is_left_comes_before_the_end() -> None:
    subject = Outbox()
    subject.put([Update(1, token_ids=(1,))])
    subject.close()
    assert await subject.get() is not None
    assert await subject.get() is None


async def test_commands_wait_while_the_reader_is_far_behind() -> None:
    subject = Outbox()
    for number in range(4096):
        subject.put_unmerged(Update(number, error=QueueFull("full")))
    blocked = asyncio.create_task(subject.wait_writable())
    await asyncio.sleep(0)
    assert not blocked.done()
    await subject.get()
    await asyncio.wait_for(blocked, 5)
