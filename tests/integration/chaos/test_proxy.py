"""The proxy passes bytes on, and spoils them as it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.chaos.proxy import Proxy

WAIT_S = 30.0


class Echo:
    """A server that sends back what it gets, and says goodbye at the end of it."""

    async def __aenter__(self) -> Echo:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    @staticmethod
    async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write(b"bye")
            writer.write_eof()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with Echo() as echo, Proxy(echo.address) as proxy:
        yield proxy


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def read(reader: asyncio.StreamReader, count: int) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return await reader.readexactly(count)


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.2):
            await reader.readexactly(1)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_in_order(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    sent = bytes(range(256)) * 4000
    writer.write(sent)
    assert await read(reader, len(sent)) == sent
    assert proxy.accepted == proxy.open_connections == 1
    writer.close()


async def test_a_stall_holds_one_direction_up_and_loses_nothing(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.down.stall()
    writer.write(b"one")
    assert await nothing_comes(reader)
    writer.write(b"two")
    proxy.down.resume()
    assert await read(reader, 6) == b"onetwo"
    writer.close()


async def test_a_black_hole_swallows_also_new_connections_until_it_heals(proxy: Proxy) -> None:
    proxy.black_hole()
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    assert await nothing_comes(reader)
    proxy.heal()
    assert await read(reader, 5) == b"hello"
    writer.close()


async def test_latency_delays_each_byte_but_not_one_after_the_other(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.up.latency_s = 0.2
    started_s = time.monotonic()
    for _ in range(20):
        writer.write(b"x")
        await asyncio.sleep(0.01)
    assert await read(reader, 20) == b"x" * 20
    # Not faster than the latency; that it is not 20 times the latency, the stream's limit shows.
    assert time.monotonic() - started_s >= 0.2
    writer.close()


async def test_bandwidth_is_bounded(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    proxy.down.bytes_per_s = 1_000_000
    started_s = time.monotonic()
    writer.write(b"x" * 300_000)
    await read(reader, 300_000)
    assert time.monotonic() - started_s >= 0.3
    writer.close()


async def test_a_reset_reaches_the_client(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"x")
    await read(reader, 1)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await read(reader, 1)
    writer.close()
    other, again = await connect(proxy)
    again.write(b"y")
    assert await read(other, 1) == b"y"
    again.close()


async def test_a_half_close_upward_leaves_the_answers(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"x")
    await read(reader, 1)
    proxy.half_close_up()
    assert await read(reader, 3) == b"bye"
    writer.close()


async def test_a_half_close_downward_is_an_end_for_the_client(proxy: Proxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"x")
    await read(reader, 1)
    proxy.half_close_down()
    async with asyncio.timeout(WAIT_S):
        assert await reader.read() == b""
    writer.close()


async def test_a_target_that_is_away_refuses_by_reset() -> None:
    async with Echo() as echo:
        address = echo.address
    async with Proxy(address) as proxy:
        reader, writer = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await read(reader, 1)
        writer.close()
        assert proxy.open_connections == 0
