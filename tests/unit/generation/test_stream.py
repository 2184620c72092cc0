"""What a reader gets, however slow it is."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.request import (
    CallPiece,
    Delta,
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    PromptLogprobs,
    Started,
    TokenLogprob,
    TotalUsage,
)
from mlxmesh_generation.streams.stream import MAX_BACKLOG_TOKENS, MAX_DELTA_TOKENS, EventBuffer
from mlxmesh_shared.errors import EngineLost

STARTED = Started("r", "pocket", 1, "engine-1", 3, 0, 0)
FINISHED = Finished(FinishReason.STOP, 3, 0, 2, total=TotalUsage(2, 0))


async def next_of(buffer: EventBuffer) -> Event:
    while (event := buffer.pop()) is None:
        await buffer.wait()
    return event


async def test_events_come_in_order() -> None:
    buffer = EventBuffer()
    buffer.put(STARTED)
    buffer.put(Delta("a", (1,)))
    buffer.put(FINISHED)
    assert [await next_of(buffer) for _ in range(3)] == [STARTED, Delta("a", (1,)), FINISHED]


async def test_a_waiting_reader_gets_each_delta_by_itself() -> None:
    buffer = EventBuffer()
    reading = asyncio.create_task(next_of(buffer))
    await asyncio.sleep(0)
    buffer.put(Delta("a", (1,)))
    assert await reading == Delta("a", (1,))


async def test_deltas_of_an_absent_reader_join() -> None:
    buffer = EventBuffer()
    for number in range(10):
        buffer.put(Delta(str(number), (number,)))
    assert await next_of(buffer) == Delta("0123456789", tuple(range(10)))


async def test_joined_deltas_stay_within_the_limit_and_lose_nothing() -> None:
    buffer = EventBuffer()
    total = 3 * MAX_DELTA_TOKENS + 1
    for number in range(total):
        buffer.put(Delta("x", (number,)))
    buffer.put(FINISHED)
    deltas: list[Delta] = []
    while isinstance(event := await next_of(buffer), Delta):
        deltas.append(event)
    assert len(deltas) == 4
    assert max(len(delta.token_ids) for delta in deltas) == MAX_DELTA_TOKENS
    assert [token for delta in deltas for token in delta.token_ids] == list(range(total))
    assert "".join(delta.text for delta in deltas) == "x" * total


async def test_only_the_latest_progress_is_kept() -> None:
    buffer = EventBuffer()
    buffer.put(PrefillProgress(10, 100))
    buffer.put(PrefillProgress(20, 100))
    buffer.put(Delta("a", (1,)))
    assert await next_of(buffer) == PrefillProgress(20, 100)
    assert await next_of(buffer) == Delta("a", (1,))


async def test_an_error_comes_after_what_was_made_before_it() -> None:
    buffer = EventBuffer()
    buffer.put(Delta("a", (1,)))
    buffer.fail(EngineLost("gone"))
    assert await next_of(buffer) == Delta("a", (1,))
    with pytest.raises(EngineLost):
        await next_of(buffer)


async def test_an_error_wakes_a_waiting_reader() -> None:
    buffer = EventBuffer()
    reading = asyncio.create_task(next_of(buffer))
    await asyncio.sleep(0)
    buffer.fail(EngineLost("gone"))
    with pytest.raises(EngineLost):
        await reading


async def test_it_is_full_only_while_too_much_waits() -> None:
    buffer = EventBuffer()
    chunk = tuple(range(MAX_DELTA_TOKENS))
    for _ in range(MAX_BACKLOG_TOKENS // MAX_DELTA_TOKENS):
        buffer.put(Delta("", chunk))
    assert not buffer.full
    buffer.put(Delta("", (1,)))
    assert buffer.full
    await next_of(buffer)
    assert not buffer.full


@pytest.mark.parametrize("end", ["finished", "failed"])
async def test_it_knows_that_it_has_ended(end: str) -> None:
    buffer = EventBuffer()
    buffer.put(Delta("a", (1,)))
    assert not buffer.ended
    if end == "finished":
        buffer.put(FINISHED)
    else:
        buffer.fail(EngineLost("gone"))
    assert buffer.ended
    assert buffer.failed == (end == "failed")


async def test_a_reader_that_is_woken_without_news_finds_nothing() -> None:
    buffer = EventBuffer()
    waiting = asyncio.create_task(buffer.wait())
    await asyncio.sleep(0)
    buffer.wake()
    await waiting
    assert buffer.pop() is None


# Several outputs.


def ended(index: int, *, last: bool = False) -> Finished:
    return Finished(
        FinishReason.STOP, 3, 0, 2, index=index, total=TotalUsage(4, 0) if last else None
    )


async def test_deltas_of_one_output_join_across_those_of_others() -> None:
    buffer = EventBuffer(outputs=2)
    buffer.put(STARTED)
    for number in range(4):
        buffer.put(Delta(str(number), (number,), index=number % 2))
    buffer.put(ended(0))
    buffer.put(Delta("5", (5,), index=1))
    assert not buffer.ended
    buffer.put(ended(1, last=True))
    assert buffer.ended
    assert [await next_of(buffer) for _ in range(5)] == [
        STARTED,
        Delta("02", (0, 2), 0),
        Delta("135", (1, 3, 5), 1),
        ended(0),
        ended(1, last=True),
    ]


async def test_all_kinds_of_output_join() -> None:
    buffer = EventBuffer()
    score = TokenLogprob(1, -1.0, b"a")
    begin, more = CallPiece(0, "id", "name", "{"), CallPiece(0, arguments="}")
    other = CallPiece(1, "id-2", "name", "{}")
    buffer.put(Delta("a", (1,), 0, "why", (begin,), (score,)))
    buffer.put(Delta("b", (2,), 0, " so", (more, other), (score,)))
    assert await next_of(buffer) == Delta(
        "ab", (1, 2), 0, "why so", (CallPiece(0, "id", "name", "{}"), other), (score, score)
    )


@given(
    writes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400), st.booleans()), max_size=60)
)
def test_nothing_of_any_output_is_lost_or_reordered(writes: list[tuple[int, int, bool]]) -> None:
    backlog: list[int] = []
    buffer = EventBuffer(backlog.append, outputs=4)
    written: dict[int, list[int]] = {index: [] for index in range(4)}
    read: dict[int, list[int]] = {index: [] for index in range(4)}

    def take() -> bool:
        event = buffer.pop()
        if isinstance(event, Delta):
            assert len(event.token_ids) < MAX_DELTA_TOKENS + 400
            read[event.index] += event.token_ids
        return event is not None

    for number, (index, count, reads) in enumerate(writes):
        tokens = tuple(range(1000 * number, 1000 * number + count))
        written[index] += tokens
        buffer.put(Delta("x", tokens, index=index))
        if reads:
            take()
    while take():
        pass
    assert read == written
    assert sum(backlog) == 0
    assert not buffer.full


async def test_log_probabilities_of_a_prompt_count_as_waiting() -> None:
    sizes: list[int] = []
    buffer = EventBuffer(sizes.append)
    tokens = tuple(TokenLogprob(number, -1.0, b"a") for number in range(256))
    for _ in range(MAX_BACKLOG_TOKENS // 256):
        buffer.put(PromptLogprobs(tokens))
    assert not buffer.full
    buffer.put(PromptLogprobs(tokens))
    assert buffer.full
    await next_of(buffer)
    assert not buffer.full
    assert sum(sizes) > 100 * MAX_BACKLOG_TOKENS
