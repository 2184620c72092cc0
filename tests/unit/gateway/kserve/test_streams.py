"""Requests of one stream: beside each other, in order, bounded, and over when the stream is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from mlxmesh_gateway.kserve.streams import InferStream, Streams, Write, max_streams
from mlxmesh_shared.errors import Draining, InvalidArgument, TooManyRequests


async def requests(*items: str, error: Exception | None = None) -> AsyncGenerator[str]:
    for item in items:
        yield item
    if error is not None:
        raise error


class Client:
    """Collects responses; while `reads` is cleared it is a slow reader."""

    def __init__(self) -> None:
        self.responses: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def write(self, response: str) -> None:
        await self.reads.wait()
        self.responses.append(response)


async def letters(request: str, write: Write[str]) -> None:
    for letter in request:
        await asyncio.sleep(0)
        await write(letter)


async def run(stream: InferStream[str, str], source: AsyncIterator[str], client: Client) -> None:
    async with asyncio.timeout(30):
        await stream.run(source, client.write)


async def test_responses_of_each_request_keep_their_order() -> None:
    client = Client()
    await run(InferStream(letters), requests("abcdef", "123456"), client)
    together = "".join(client.responses)
    assert [each for each in together if each.isalpha()] == list("abcdef")
    assert [each for each in together if each.isdigit()] == list("123456")
    assert together != "abcdef123456"


async def test_a_stream_without_requests_ends() -> None:
    client = Client()
    await run(InferStream(letters), requests(), client)
    assert client.responses == []


async def test_further_requests_wait_unread() -> None:
    go_on = asyncio.Event()
    running = most = 0
    read: list[str] = []

    async def serve(request: str, write: Write[str]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1
        await write(request)

    async def many() -> AsyncGenerator[str]:
        for number in range(9):
            read.append(str(number))
            yield str(number)

    client = Client()
    serving = asyncio.create_task(run(InferStream(serve, max_running=3), many(), client))
    while running < 3 or len(read) < 4:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert running == 3
    assert len(read) == 4
    go_on.set()
    await serving
    assert most == 3
    assert sorted(client.responses) == [str(number) for number in range(9)]


async def test_a_slow_reader_stops_its_requests() -> None:
    written: list[str] = []

    async def serve(request: str, write: Write[str]) -> None:
        for letter in request:
            await write(letter)
            written.append(letter)

    client = Client()
    client.reads.clear()
    serving = asyncio.create_task(run(InferStream(serve), requests("abcdefgh"), client))
    await asyncio.sleep(0.05)
    assert len(written) <= 2
    client.reads.set()
    await serving
    assert client.responses == list("abcdefgh")


async def test_cancelling_the_stream_ends_its_requests() -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def serve(request: str, write: Write[str]) -> None:
        begun.append(request)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request)

    serving = asyncio.create_task(run(InferStream(serve), requests("a", "b"), Client()))
    while len(begun) < 2:
        await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert sorted(ended) == ["a", "b"]


async def test_an_illegal_message_ends_the_stream_after_the_requests_before() -> None:
    client = Client()
    source = requests("abc", error=InvalidArgument("no message"))
    with pytest.raises(InvalidArgument, match="no message"):
        await run(InferStream(letters), source, client)
    assert client.responses == ["a", "b", "c"]


async def test_an_unexpected_error_ends_the_stream() -> None:
    async def serve(request: str, write: Write[str]) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await run(InferStream(serve), _endless("a"), Client())


async def _endless(*items: str) -> AsyncGenerator[str]:
    for item in items:
        yield item
    await asyncio.Event().wait()


@pytest.mark.parametrize("early", [True, False])
async def test_a_drain_ends_the_stream_after_its_requests(early: bool) -> None:
    client = Client()
    stream: InferStream[str, str] = InferStream(letters)
    if early:
        stream.close()
    serving: asyncio.Task[Any] = asyncio.create_task(run(stream, _endless("abc"), client))
    while not (early or client.responses):
        await asyncio.sleep(0)
    stream.close()
    with pytest.raises(Draining):
        await serving
    assert client.responses == ([] if early else ["a", "b", "c"])


def test_streams_are_limited_in_all_and_for_each_caller() -> None:
    streams = Streams(3)
    one, two, three = (InferStream[str, str](letters) for _ in range(3))
    with (
        streams.counted("ada", one),
        pytest.raises(TooManyRequests),
        streams.counted("ada", two),
    ):
        pass
    with (
        streams.counted("ada", one),
        streams.counted("bob", two),
        streams.counted("cy", three),
        pytest.raises(TooManyRequests),
        streams.counted("di", InferStream[str, str](letters)),
    ):
        pass
    with streams.counted("ada", two):
        pass


def test_as_many_streams_as_memory_allows() -> None:
    assert max_streams(max_message_bytes=16 * 2**20, max_held_bytes=256 * 2**20) == 128
    assert max_streams(max_message_bytes=2**30, max_held_bytes=2**20) == 2
