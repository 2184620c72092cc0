"""The output of a relay: in turn, one message of a stream at a time, within its credit."""

import asyncio

import pytest

from mlxmesh_generation.relay.outbox import MAX_QUEUED, MAX_RESPONSE_BYTES, Outbox, OutputStream
from mlxmesh_shared.errors import QueueFull


@pytest.fixture
async def outbox() -> Outbox:
    return Outbox()


async def blocked(task: asyncio.Task[None]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


async def test_one_response_has_the_output_of_all_streams(outbox: Outbox) -> None:
    for stream_id in (3, 1, 2):
        await OutputStream(outbox, stream_id, 1).write(b"%d" % stream_id)
    outputs = await outbox.take()
    assert [(each.stream_id, each.message) for each in outputs] == [(3, b"3"), (1, b"1"), (2, b"2")]


async def test_a_second_message_waits_until_the_first_was_taken(outbox: Outbox) -> None:
    stream = OutputStream(outbox, 1, 5)
    await stream.write(b"a")
    second = asyncio.create_task(stream.write(b"b"))
    assert await blocked(second)
    assert [each.message for each in await outbox.take()] == [b"a"]
    await second
    assert [each.message for each in await outbox.take()] == [b"b"]


async def test_without_credit_only_the_one_stream_waits(outbox: Outbox) -> None:
    silent, other = OutputStream(outbox, 1, 1), OutputStream(outbox, 2, 5)
    await silent.write(b"a")
    await outbox.take()
    waiting = asyncio.create_task(silent.write(b"b"))
    assert await blocked(waiting)
    await other.write(b"x")
    assert [each.stream_id for each in await outbox.take()] == [2]

    silent.add_credit(1)
    await waiting
    assert [each.message for each in await outbox.take()] == [b"b"]


async def test_the_end_needs_no_credit_and_joins_the_last_message(outbox: Outbox) -> None:
    stream = OutputStream(outbox, 1, 1)
    error = QueueFull("full")
    await stream.write(b"a")
    stream.end(error)
    [output] = await outbox.take()
    assert (output.message, output.ended, output.error) == (b"a", True, error)


async def test_a_discarded_stream_sends_nothing(outbox: Outbox) -> None:
    left, other = OutputStream(outbox, 1, 5), OutputStream(outbox, 2, 5)
    await left.write(b"a")
    left.discard()
    left.end(None)
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    await other.write(b"b")
    assert [each.stream_id for each in await taking] == [2]


async def test_a_response_is_limited_in_size(outbox: Outbox) -> None:
    for stream_id in range(1, 4):
        await OutputStream(outbox, stream_id, 1).write(b"x" * (MAX_RESPONSE_BYTES // 2))
    assert [len(await outbox.take()) for _ in range(2)] == [2, 1]


async def test_commands_wait_while_the_reader_is_far_behind(outbox: Outbox) -> None:
    for stream_id in range(1, MAX_QUEUED + 1):
        OutputStream(outbox, stream_id, 1).end(None)
    waiting = asyncio.create_task(outbox.wait_room())
    assert await blocked(waiting)
    await outbox.take()
    await waiting


async def test_a_closed_outbox_hands_out_what_it_has_then_nothing(outbox: Outbox) -> None:
    stream = OutputStream(outbox, 1, 1)
    await stream.write(b"a")
    outbox.close()
    assert [each.message for each in await outbox.take()] == [b"a"]
    assert await outbox.take() == []
