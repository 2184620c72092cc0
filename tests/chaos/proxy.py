"""A TCP proxy that spoils connections: each direction by itself, while they run."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from dataclasses import dataclass, field

CHUNK_BYTES = 64 * 1024
# What may be under way in one direction of a connection: more than a window, less than a flood.
CHUNKS_UNDER_WAY = 64


class Direction:
    """What happens to the bytes that go one way, on every connection; all of it may change."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        """How long each byte is under way."""
        self.bytes_per_s: float | None = None
        """The most that passes in a second on one connection; None for no limit."""
        self._flows = asyncio.Event()
        self._flows.set()

    def stall(self) -> None:
        """Lets nothing through until `resume`; nothing is lost."""
        self._flows.clear()

    def resume(self) -> None:
        """Lets through what was held up, and all that follows."""
        self._flows.set()

    async def passage(self, due_s: float, count: int) -> None:
        """Returns when so many bytes may be delivered that are due at `due_s`."""
        await asyncio.sleep(due_s - time.monotonic())
        if self.bytes_per_s is not None:
            await asyncio.sleep(count / self.bytes_per_s)
        await self._flows.wait()


@dataclass(eq=False)
class _Connection:
    """A client's connection and the one to the target that was made for it."""

    client: asyncio.StreamWriter
    target: asyncio.StreamWriter
    pumps: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    def close(self, *, reset: bool) -> None:
        for writer in (self.client, self.target):
            if reset:
                _reset_on_close(writer)
            writer.transport.abort()
        for pump in self.pumps:
            pump.cancel()


class Proxy:
    """Passes connections on to `target` (host:port); use as an async context.

    `up` is the direction from clients to the target, `down` the other.
    """

    def __init__(self, target: str) -> None:
        self.up, self.down = Direction(), Direction()
        self.address = ""
        self.accepted = 0
        """How many connections were made so far."""
        self._target = target
        self._connections: set[_Connection] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        # asyncio loses a connection that it has accepted and not handed over yet when it closes.
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        await asyncio.sleep(0.01)
        self._server.close()
        self._end_all(reset=False)
        await self._server.wait_closed()

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def black_hole(self) -> None:
        """Swallows both directions, as an unplugged cable does; `heal` ends it."""
        self.up.stall()
        self.down.stall()

    def heal(self) -> None:
        """Takes every fault away."""
        for direction in (self.up, self.down):
            direction.latency_s, direction.bytes_per_s = 0.0, None
            direction.resume()

    def reset(self) -> None:
        """Ends every connection on both sides with a RST."""
        self._end_all(reset=True)

    def half_close_up(self) -> None:
        """Ends what clients send on every connection in order (FIN); answers go on."""
        for connection in self._connections:
            connection.pumps[0].cancel()
            connection.target.write_eof()

    def half_close_down(self) -> None:
        """Ends what the target sends on every connection in order (FIN); requests go on."""
        for connection in self._connections:
            connection.pumps[1].cancel()
            connection.client.write_eof()

    def _end_all(self, *, reset: bool) -> None:
        for connection in list(self._connections):
            connection.close(reset=reset)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            answers, target = await asyncio.open_connection(host, int(port))
        except OSError:
            _reset_on_close(client)
            client.transport.abort()
            return
        connection = _Connection(client, target)
        connection.pumps = [
            asyncio.create_task(_pump(reader, target, self.up)),
            asyncio.create_task(_pump(answers, client, self.down)),
        ]
        self._connections.add(connection)
        self.accepted += 1
        # A direction that ended leaves the other alone: half-closed is a legal state.
        await asyncio.wait(connection.pumps)
        self._connections.discard(connection)
        connection.close(reset=False)


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
) -> None:
    """Passes bytes on until their end, which is passed on too."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_UNDER_WAY)
    reading = asyncio.create_task(_read(source, under_way, direction))
    try:
        # A connection that breaks here breaks the pump's; its other direction will notice too.
        with contextlib.suppress(OSError):
            while True:
                due_s, data = await under_way.get()
                await direction.passage(due_s, len(data))
                if not data:
                    sink.write_eof()
                    return
                sink.write(data)
                await sink.drain()
    finally:
        reading.cancel()


async def _read(
    source: asyncio.StreamReader,
    under_way: asyncio.Queue[tuple[float, bytes]],
    direction: Direction,
) -> None:
    data = b"more"
    while data:
        try:
            data = await source.read(CHUNK_BYTES)
        except OSError:
            data = b""
        await under_way.put((time.monotonic() + direction.latency_s, data))


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    linger_for_no_time = struct.pack("ii", 1, 0)
    sock: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
