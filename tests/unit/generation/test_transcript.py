"""Numbers, readers that come again, and what is no longer kept."""

import asyncio
from contextlib import aclosing

import pytest

from mlxmesh_generation.domain.request import Delta, Event, Finished, FinishReason, TotalUsage
from mlxmesh_generation.streams.stream import EventBuffer, size_bytes
from mlxmesh_generation.streams.transcript import Listeners, Transcript
from mlxmesh_shared.errors import EngineLost, InvalidArgument, MessagesExpired, ReaderReplaced

FINISHED = Finished(FinishReason.STOP, 3, 0, 2, total=TotalUsage(2, 0))


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


async def test_beyond_the_last_message_is_an_error() -> None:
    transcript = Transcript(filled("a"), keeps=True)
    with pytest.raises(InvalidArgument):
        await read(transcript, 3)
    assert len(await read(transcript, 1)) == 1


async def test_without_keeping_what_was_read_is_gone() -> None:
    transcript = Transcript(filled("a", "b"), keeps=False)
    assert len(await read(transcript)) == 3
    with pytest.raises(MessagesExpired):
        await read(transcript, 1)


async def test_one_that_goes_on_here_begins_after_what_the_reader_has() -> None:
    transcript = Transcript(filled("a"), keeps=True, after_sequence=7)
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
