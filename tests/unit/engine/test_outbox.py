import asyncio

from mlxmesh_engine.scheduling.request import FinishReason, Load, Logprobs, Update
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
    await asyncio.wait_for(blocked, 30)


def prompt_logprobs(sequence_id: int, tokens: int) -> Update:
    values = (-1.0,) * tokens
    return Update(sequence_id, prompt_logprobs=Logprobs(values, (5,) * 19 * tokens, values * 19))


async def test_logprobs_of_long_prompts_take_several_messages() -> None:
    subject = Outbox()
    for _ in range(8):
        subject.put([prompt_logprobs(1, 4096), prompt_logprobs(2, 2048)])
    subject.put([Update(1, token_ids=(7,), logprobs=Logprobs((-2.0,))), Update(2, token_ids=(8,))])
    counts, tokens = {1: 0, 2: 0}, dict[int, tuple[int, ...]]()
    messages = 0
    while len(tokens) < 2:
        outputs = await asyncio.wait_for(subject.get(), 30)
        assert outputs is not None
        messages, total = messages + 1, 0
        for update in outputs[0]:
            assert update.sequence_id not in tokens, "after its first token"
            if update.prompt_logprobs is not None:
                counts[update.sequence_id] += len(update.prompt_logprobs.chosen)
                total += 20 * len(update.prompt_logprobs.chosen)
            if update.token_ids:
                tokens[update.sequence_id] = update.token_ids
        assert total <= 2**18
    assert messages > 1
    assert counts == {1: 8 * 4096, 2: 8 * 2048}
    assert tokens == {1: (7,), 2: (8,)}


async def test_later_messages_are_returned_after_the_end_as_well() -> None:
    subject = Outbox()
    subject.put([prompt_logprobs(number, 10_000) for number in range(1, 4)])
    subject.close()
    found = [await asyncio.wait_for(subject.get(), 30) for _ in range(4)]
    assert [None if each is None else len(each[0]) for each in found] == [1, 1, 1, None]


async def test_logprobs_of_merged_tokens_are_joined() -> None:
    subject = Outbox()
    for token in (7, 8):
        subject.put([Update(1, token_ids=(token,), logprobs=Logprobs((-1.0,), (token,), (-0.5,)))])
    outputs = await subject.get()
    assert outputs is not None
    (update,) = outputs[0]
    assert update.logprobs == Logprobs((-1.0, -1.0), (7, 8), (-0.5, -0.5))
