"""Numbers, readers that come again, and what is no longer kept."""

import asyncio
from contextlib import aclosing

import pytest

from mlxmesh_generation.domain.request import (
    Delta,
    Event,
    Finished,
    FinishReason,
    ReceivedOutput,
    Resumed,
    TotalUsage,
)
from mlxmesh_generation.streams.stream import EventBuffer, size_bytes
from mlxmesh_generation.streams.transcript import Listeners, Transcript
from mlxmesh_shared.errors import EngineLost, InvalidArgument, MessagesExpired, ReaderReplaced

FINISHED = Finished(FinishReason.STOP, 3, 0, 2, total=TotalUsage(2, 0))


RESUMED = Resumed({0: ReceivedOutput((5, 6), 2)}, after_sequence=7, resumptions=0)


def filled(*texts: str, ends: bool = True) -> EventBuffer:
    buffer = EventBuffer()
    for number, text in enumerate(texts):
        # So long that no two of them join.
        buffer.put(Delta(text, (number,) * 600))
    if ends:
        buffer.put(FINISHED)
    return buffer


async def read(transcript: Transcript, after: int = 0) -> list[tuple[int, Event]]:
    async with aclosing(transcript.read(after)) as events:
        return [event async for event in events]


async def test_a_reader_that_comes_again_gets_the_same() -> None:
    transcript = Transcript(filled("a", "b"), keeps=True)
    first = await read(transcript)
    assert [number for number, _ in first] == [1, 2, 3]
    assert await read(transcript) == first
    assert await read(transcript, 2) == first[2:]
    assert await read(transcript, 3) == []


async def test_beyond_the_last_message_that_was_read_is_an_error() -> None:
    transcript = Transcript(filled("a"), keeps=True)
    for after in (1, 2, 3):  # numbers that a reader has from another instance
        with pytest.raises(InvalidArgument) as caught:
            await read(transcript, after)
        assert caught.value.field == "after_sequence"
    events = await read(transcript)
    assert [number for number, _ in events] == [1, 2]
    assert await read(transcript, 1) == events[1:]
    with pytest.raises(InvalidArgument):
        await read(transcript, 3)


async def test_without_keeping_what_was_read_is_gone() -> None:
    transcript = Transcript(filled("a", "b"), keeps=False)
    assert len(await read(transcript)) == 3
    with pytest.raises(MessagesExpired):
        await read(transcript, 1)


async def test_one_that_goes_on_here_begins_after_what_the_reader_has() -> None:
    transcript = Transcript(filled("a"), keeps=True, resumed=RESUMED)
    assert [number for number, _ in await read(transcript, 7)] == [8, 9]
    with pytest.raises(MessagesExpired):
        await read(transcript, 6)


async def test_the_oldest_messages_can_be_given_up() -> None:
    kept: list[int] = []
    transcript = Transcript(filled("a", "b"), keeps=True, listeners=Listeners(on_kept=kept.append))
    events = await read(transcript)
    assert kept == [size_bytes(event) for _, event in events]
    assert transcript.drop_oldest() == kept[0]
    with pytest.raises(MessagesExpired):
        await read(transcript)
    assert await read(transcript, 1) == events[1:]
    assert [transcript.drop_oldest() for _ in range(3)] == [kept[1], kept[2], 0]


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_new_reader_sends_the_one_before_away(waiting: bool) -> None:
    left: list[str] = []
    buffer = filled("a", ends=False)
    listeners = Listeners(on_left=lambda: left.append("left"))
    transcript = Transcript(buffer, keeps=True, listeners=listeners)
    first = transcript.read()
    await anext(first)
    going_on = asyncio.create_task(anext(first)) if waiting else None
    await asyncio.sleep(0)
    second = asyncio.create_task(read(transcript))
    await asyncio.sleep(0)
    buffer.put(FINISHED)
    with pytest.raises(ReaderReplaced):
        await (going_on or anext(first))
    assert left == [] or second.done()
    assert [number for number, _ in await second] == [1, 2]
    assert left == ["left"]


async def test_a_failure_comes_after_what_was_made() -> None:
    buffer = filled("a", ends=False)
    buffer.fail(EngineLost("gone"))
    transcript = Transcript(buffer, keeps=True)
    assert transcript.failed
    for _ in range(2):
        events = transcript.read()
        assert (await anext(events))[0] == 1
        with pytest.raises(EngineLost):
            await anext(events)


def had(tokens: int, characters: int, after: int, *, ended: bool = False) -> Resumed:
    output = ReceivedOutput((0,) * tokens, characters, finished=FINISHED if ended else None)
    return Resumed({0: output}, after_sequence=after, resumptions=1)


@pytest.mark.parametrize(
    ("resumed", "own"),
    [
        (Resumed({}, after_sequence=0, resumptions=1), True),
        (had(600, 1, 1), True),
        (had(1200, 2, 2), True),
        (had(1200, 2, 3, ended=True), True),
        (had(600, 1, 2), False),  # fewer tokens than in these messages
        (had(1200, 2, 1), False),
        (had(1200, 1, 2), False),
        (had(1200, 2, 3), False),
        (had(1200, 2, 4, ended=True), False),  # more messages than there are
    ],
)
@pytest.mark.parametrize("dropped", [False, True])
async def test_it_knows_who_has_its_messages(resumed: Resumed, own: bool, dropped: bool) -> None:
    transcript = Transcript(filled("a", "b"), keeps=True)
    await read(transcript)
    if dropped and resumed.after_sequence > 0:
        transcript.drop_oldest()
    assert transcript.was_read_by(resumed) == own


async def test_what_was_sent_elsewhere_before_counts() -> None:
    transcript = Transcript(filled("a"), keeps=True, resumed=RESUMED)
    assert transcript.was_read_by(RESUMED)
    await read(transcript, 7)
    assert transcript.was_read_by(had(602, 3, 8))
    assert not transcript.was_read_by(had(600, 1, 8))
    assert not transcript.was_read_by(had(2, 2, 6))
