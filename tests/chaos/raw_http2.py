"""HTTP/2 by hand: what no gRPC library would do, such as half of a message and no more.

Source: RFC 9113 (frames, windows) and RFC 7541 (header fields, all literal).
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
_FRAME_BYTES = 16384
_INITIAL_WINDOW_SETTING = 4


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def message(content: bytes, *, announced_bytes: int | None = None) -> bytes:
    """A gRPC message; with announced_bytes, the beginning of one that has so many."""
    size_bytes = len(content) if announced_bytes is None else announced_bytes
    return struct.pack(">BI", 0, size_bytes) + content


class RawConnection:
    """One connection; it answers settings and pings, and reads nothing of what streams bring."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._windows = {0: 65535}
        self._initial_window = 65535
        self._changed = asyncio.Event()
        self._next_stream = 1
        self.ended: set[int] = set()
        """Streams that the server has ended."""
        self.is_closed = False

    def start(self, path: str, metadata: tuple[tuple[str, str], ...] = ()) -> int:
        """Begins a call; returns its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._windows[stream] = self._initial_window
        names = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *metadata,
        )
        block = b"".join(_literal(name, value) for name, value in names)
        self._writer.write(frame(HEADERS, END_HEADERS, stream, block))
        return stream

    async def send(self, stream: int, content: bytes, *, ends: bool = False) -> int:
        """Sends as much as the server's windows allow; returns how much that was."""
        sent = 0
        while sent < len(content):
            if self.is_closed or stream in self.ended:
                return sent
            room = min(self._windows[0], self._windows[stream], _FRAME_BYTES, len(content) - sent)
            if room <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            self._writer.write(frame(DATA, 0, stream, content[sent : sent + room]))
            self._windows[0] -= room
            self._windows[stream] -= room
            sent += room
            await self._writer.drain()
        if ends:
            self._writer.write(frame(DATA, END_STREAM, stream))
        return sent

    def reset(self, stream: int) -> None:
        """Gives a call up."""
        self._writer.write(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))

    async def flush(self) -> None:
        """Waits until what was written is on its way."""
        await self._writer.drain()

    async def read_for_ever(self) -> None:
        """Follows what the server says of its windows."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                stream = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
                self._take(kind, flags, stream, await self._reader.readexactly(size))
                self._changed.set()
        except (asyncio.IncompleteReadError, OSError):
            self.is_closed = True
            self._changed.set()

    def _take(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for setting, value in struct.iter_unpack(">HI", content):
                if setting == _INITIAL_WINDOW_SETTING:
                    self._move_windows(value - self._initial_window)
                    self._initial_window = value
            self._writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._writer.write(frame(PING, ACK, 0, content))
        elif kind == WINDOW_UPDATE:
            known = self._windows.get(stream, self._initial_window)
            self._windows[stream] = known + int.from_bytes(content, "big")
        elif kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended.add(stream)

    def _move_windows(self, difference: int) -> None:
        for stream in self._windows:
            if stream:
                self._windows[stream] += difference


@asynccontextmanager
async def raw_connection(address: str) -> AsyncGenerator[RawConnection]:
    """A connection to host:port, once both sides have said their settings."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    connection = RawConnection(reader, writer)
    writer.write(PREFACE + frame(SETTINGS, 0, 0))
    reading = asyncio.create_task(connection.read_for_ever())
    try:
        await asyncio.sleep(0.05)
        yield connection
    finally:
        reading.cancel()
        writer.close()
        await asyncio.gather(reading, return_exceptions=True)
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _literal(name: str, value: str) -> bytes:
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) < 127:
        return bytes([len(encoded)]) + encoded
    rest, size = len(encoded) - 127, b"\x7f"
    while rest >= 128:
        size += bytes([rest & 127 | 128])
        rest >>= 7
    return size + bytes([rest]) + encoded
