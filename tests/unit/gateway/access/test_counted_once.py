"""Each token of a generation is counted once, whichever calls read it."""

from __future__ import annotations

import asyncio

import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_gateway.access.usage.once import CountedOnce
from mlxmesh_gateway.door.convert import count_snapshot, counting_attached
from mlxmesh_gateway.forwarding.used import Used

ADA = "key:k_1#"
ID = "id"


class Calls:
    """Calls of one principal about one generation, of 20 tokens in messages 2 to 21."""

    def __init__(self) -> None:
        self.once = CountedOnce(max_remembered=2)

    def begun(self, last: int, *, created_ns: int = 5, ended: bool = False, id_: str = ID) -> Used:
        """Read from the first message to the last."""
        used = Used(
            request_id=id_,
            created_ns=created_ns,
            model="pocket",
            prompt_tokens=7,
            completion_tokens=last - 1,
            last_sequence=last,
            total_tokens=20 if ended else 0,
            device_ms=9 if ended else 0,
        )
        return self._settled(used, begins=True)

    def attached(self, first: int, last: int, *, ended: bool = False) -> Used:
        """Some of the messages of an attach."""
        used = self.once.reading(ADA, ID)

        async def read() -> None:
            write = counting_attached(used, _to_nobody)
            for number in range(first, last + 1):
                delta = g.Delta(token_ids=[number] if number > 1 else [])
                message = g.GenerateResponse(sequence=number, delta=delta)
                await write(g.AttachGenerationResponse(message=message).SerializeToString())

        asyncio.run(read())
        return self._read(used, ended=ended)

    def got(self, tokens: int, *, ended: bool = False) -> Used:
        """A snapshot."""
        used = self.once.reading(ADA, ID)
        used.snapshot_tokens = tokens
        return self._read(used, ended=ended)

    def _read(self, used: Used, *, ended: bool) -> Used:
        used.model, used.prompt_tokens, used.created_ns = "pocket", 7, 5
        if ended:
            used.total_tokens, used.device_ms = 20, 9
        return self._settled(used, begins=False)

    def _settled(self, used: Used, *, begins: bool) -> Used:
        self.once.settle(ADA, used, begins=begins)
        return used


async def _to_nobody(_message: bytes) -> None: ...


def amounts(used: Used) -> tuple[int, int, float]:
    return used.prompt_tokens, used.completion_tokens, used.device_ms


def test_who_leaves_and_gets_the_output_is_charged_for_it() -> None:
    calls = Calls()
    assert amounts(calls.begun(4)) == (7, 3, 0)
    assert amounts(calls.got(12)) == (0, 9, 0)
    assert amounts(calls.got(20, ended=True)) == (0, 8, 9)
    assert amounts(calls.got(20, ended=True)) == (0, 0, 0)


def test_a_prompt_whose_call_was_cancelled_is_counted_when_the_output_is_read() -> None:
    assert amounts(Calls().got(20, ended=True)) == (7, 20, 9)


def test_polling_beside_a_reader_counts_nothing_twice() -> None:
    calls = Calls()
    assert amounts(calls.got(12)) == (7, 12, 0)
    assert amounts(calls.begun(21, ended=True)) == (0, 8, 9)


def test_a_repetition_is_counted_once() -> None:
    calls = Calls()
    calls.begun(21, ended=True)
    again = calls.begun(21, ended=True)
    assert amounts(again) == (0, 0, 0)
    assert again.repeated


@pytest.mark.parametrize("created_ns", [6, 0])
def test_another_generation_with_the_same_id_is_counted(created_ns: int) -> None:
    calls = Calls()
    calls.begun(21, created_ns=5 if created_ns else 0, ended=True)
    assert amounts(calls.begun(4, created_ns=created_ns)) == (7, 3, 0)


def test_reading_the_end_first_does_not_make_the_beginning_free() -> None:
    calls = Calls()
    assert calls.attached(20, 21).completion_tokens == 2
    assert calls.attached(1, 19).completion_tokens == 18
    assert calls.attached(1, 21, ended=True).completion_tokens == 0


def test_a_stream_after_the_end_was_read_is_counted_from_its_beginning() -> None:
    calls = Calls()
    calls.attached(12, 21)
    assert calls.begun(5).completion_tokens == 4
    assert calls.attached(1, 11).completion_tokens == 6


def test_attaching_counts_what_a_snapshot_did_not() -> None:
    calls = Calls()
    calls.got(12)
    assert calls.attached(1, 13).completion_tokens == 0
    assert calls.attached(14, 21, ended=True).completion_tokens == 8


def test_what_is_remembered_is_bounded() -> None:
    calls = Calls()
    calls.begun(21)
    for number in range(2):
        calls.begun(2, id_=f"other-{number}")
    assert calls.got(20).completion_tokens == 20


def test_calls_without_an_answer_are_not_remembered() -> None:
    once = CountedOnce()
    once.settle(ADA, Used(), begins=True)
    assert once.reading(ADA, "") == Used()


def test_other_principals_share_nothing() -> None:
    calls = Calls()
    calls.begun(21, ended=True)
    assert calls.once.reading("key:k_2#", ID).last_sequence == 0


def test_any_order_of_reading_counts_every_token() -> None:
    """Never less than was read; at most the total once the end is known."""
    calls = Calls()
    counted = [
        calls.got(3),
        calls.attached(10, 15),
        calls.begun(6),
        calls.attached(1, 12),
        calls.attached(13, 21, ended=True),
    ]
    assert sum(used.completion_tokens for used in counted) == 20
    assert sum(used.prompt_tokens for used in counted) == 7


def test_a_snapshot_counts_the_tokens_of_all_outputs() -> None:
    outputs = [g.Output(index=1, token_ids=[3, 4]), g.Output(index=2, token_ids=[5])]
    response = g.GetGenerationResponse(
        token_ids=[1, 2], other_outputs=outputs, finished=g.Finished(index=0)
    )
    used = Used()
    count_snapshot(used, response.SerializeToString())
    assert (used.snapshot_tokens, used.total_tokens) == (5, 0)
    response.finished.total_usage.completion_tokens = 6
    count_snapshot(used, response.SerializeToString())
    assert (used.snapshot_tokens, used.total_tokens) == (6, 6)


def test_the_end_of_one_output_does_not_end_an_attached_generation() -> None:
    used = Used()

    async def read() -> None:
        write = counting_attached(used, _to_nobody)
        usage = g.Usage(completion_tokens=2)
        for sequence, total in ((1, None), (2, g.Usage(completion_tokens=5))):
            finished = g.Finished(usage=usage, total_usage=total)
            message = g.GenerateResponse(sequence=sequence, finished=finished)
            await write(g.AttachGenerationResponse(message=message).SerializeToString())
            assert used.total_tokens == (5 if total else 0)

    asyncio.run(read())


STEPS = [
    g.EnsembleStep(model="a", usage=g.Usage(prompt_tokens=7, cached_tokens=2, completion_tokens=9)),
    g.EnsembleStep(model="b", chosen=True),
]
STARTED = g.Started(model="b", prompt_tokens=5, cached_tokens=1, steps=STEPS)


def test_an_attached_ensemble_counts_every_step() -> None:
    used = Used()
    total = g.Usage(prompt_tokens=12, cached_tokens=3, completion_tokens=11)
    steps = [g.EnsembleStep(device_ms=4), g.EnsembleStep(device_ms=3)]
    messages = [
        g.GenerateResponse(sequence=1, started=STARTED),
        g.GenerateResponse(sequence=2, delta=g.Delta(token_ids=[1, 2])),
        g.GenerateResponse(
            sequence=3, finished=g.Finished(total_usage=total, steps=steps, device_ms=7)
        ),
    ]

    async def read() -> None:
        write = counting_attached(used, _to_nobody)
        for message in messages:
            await write(g.AttachGenerationResponse(message=message).SerializeToString())
            assert (used.prompt_tokens, used.cached_tokens) == (12, 3)

    asyncio.run(read())
    assert (used.completion_tokens, used.total_tokens, used.device_ms) == (11, 11, 7)


def test_the_first_message_that_is_told_again_counts_no_steps() -> None:
    used = Used(first_sequence=1, last_sequence=1)

    async def read() -> None:
        message = g.GenerateResponse(sequence=2, delta=g.Delta(token_ids=[1, 2]))
        response = g.AttachGenerationResponse(message=message, started=STARTED)
        await counting_attached(used, _to_nobody)(response.SerializeToString())

    asyncio.run(read())
    assert used.completion_tokens == 2


def test_a_snapshot_of_a_running_ensemble_counts_the_other_steps() -> None:
    response = g.GetGenerationResponse(started=STARTED, token_ids=[1, 2])
    used = Used()
    count_snapshot(used, response.SerializeToString())
    assert (used.snapshot_tokens, used.prompt_tokens) == (11, 12)
