"""The output of one relay: at most one message of each stream, within its credit."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from mlxmesh_shared.errors import MeshError

# So that a response stays far below what its receiver accepts; one message may exceed it.
MAX_RESPONSE_BYTES = 2**20
MAX_QUEUED = 4096


@dataclass(slots=True)
class Output:
    """New output of one stream; `ended` is set in its last one.

    Not frozen: one is created per message, and freezing doubles the cost of that.
    """

    stream_id: int
    message: bytes
    """Empty if there is none."""
    ended: bool
    error: MeshError | None


class OutputStream:
    """The output of one stream.

    A second message waits until the first was taken: while the reader is behind, further output
    stays with the generation, which merges it into fewer, larger messages.
    """

    def __init__(self, outbox: Outbox, stream_id: int, credit: int) -> None:
        self._outbox = outbox
        self._stream_id = stream_id
        self._credit = credit
        self._message = b""
        self._ended = False
        self._error: MeshError | None = None
        self._writable: asyncio.Future[None] | None = None
        self.queued = False
        self.discarded = False

    async def write(self, message: bytes) -> None:
        """Queues a message; waits for credit, and until the one before it was taken."""
        while self._message or self._credit < 1:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable
        self._credit -= 1
        self._message = message
        self._outbox.put(self)

    def add_credit(self, messages: int) -> None:
        self._credit += messages
        self._wake()

    def end(self, error: MeshError | None) -> None:
        """Ends the stream after the message that is queued, if there is one."""
        self._ended, self._error = True, error
        self._outbox.put(self)

    def discard(self) -> None:
        """Sends nothing more: its reader has left."""
        self.discarded = True

    def take(self) -> Output:
        output = Output(self._stream_id, self._message, self._ended, self._error)
        self._message = b""
        self._wake()
        return output

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done() and self._credit > 0:
            self._writable.set_result(None)


class Outbox:
    """The streams that have output, the longest waiting first. Used on the event loop only."""

    def __init__(self) -> None:
        self._queue: deque[OutputStream] = deque()
        self._readable = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def put(self, stream: OutputStream) -> None:
        if stream.queued or stream.discarded:
            return
        stream.queued = True
        self._queue.append(stream)
        self._readable.set()
        if len(self._queue) >= MAX_QUEUED:
            self._room.clear()

    def close(self) -> None:
        """Ends the outputs: `take` returns those that are queued, then none."""
        self._closed = True
        self._readable.set()

    async def wait_room(self) -> None:
        """Returns once the reader has caught up enough for more commands."""
        await self._room.wait()

    async def take(self) -> list[Output]:
        """Waits for output and returns what one response may have; none once closed and empty."""
        while True:
            await self._readable.wait()
            outputs = self._take_now()
            if outputs or self._closed:
                return outputs

    def _take_now(self) -> list[Output]:
        outputs: list[Output] = []
        size_bytes = 0
        while self._queue and size_bytes < MAX_RESPONSE_BYTES:
            stream = self._queue.popleft()
            stream.queued = False
            if not stream.discarded:
                output = stream.take()
                outputs.append(output)
                size_bytes += len(output.message)
        if not self._queue and not self._closed:
            self._readable.clear()
        self._room.set()
        return outputs
