import asyncio

from mlxmesh_engine.scheduling.request import FinishReason, Load, Update
from mlxmesh_engine.service.outbox import Outbox
from mlxmesh_shared.errors import QueueFull


def load(waiting: int) -> Load:
    return Load(1, waiting, 8, 8)


async def test_updates_for_a_slow_reader_are_merged_by_sequence() -> None:
    subject = Outbox()
    subject.put([Update(1, accepted=True), Update(2, accepted=True)], load(1))
    subject.put([Update(1, prefilled_tokens=5), Update(2, prefilled_tokens=3)], load(2))
    for token in (7, 8, 9):
        subject.put([Update(1, token_ids=(token,))], load(3))
    subject.put([Update(1, token_ids=(10,), finish_reason=FinishReason.STOP)], load(4))
    outputs = await subject.get()
    assert outputs is not None
    updates, last_load = outputs
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


async def test_a_reused_id_is_another_sequence() -> None:
    subject = Outbox()
    subject.put([Update(1, token_ids=(5,), finish_reason=FinishReason.STOP)])
    subject.put([Update(1, accepted=True), Update(1, token_ids=(6,))])
    outputs = await subject.get()
    assert outputs is not None
    assert [update.token_ids for update in outputs[0]] == [(5,), (6,)]


async def test_a_rejection_does_not_affect_the_active_sequence() -> None:
    subject = Outbox()
    subject.put([Update(1, token_ids=(5,))])
    subject.put_unmerged(Update(1, error=QueueFull("full")))
    subject.put([Update(1, token_ids=(6,))])
    outputs = await subject.get()
    assert outputs is not None
    assert [(update.token_ids, update.last) for update in outputs[0]] == [
        ((5, 6), False),
        ((), True),
    ]


async def test_get_waits_for_outputs() -> None:
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


async def test_pending_outputs_come_before_the_end() -> None:
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
