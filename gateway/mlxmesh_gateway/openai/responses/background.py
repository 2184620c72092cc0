"""Reads responses in the background, so that the gateway sees how they end."""

from __future__ import annotations

import asyncio

from mlxmesh_gateway.http.door import Write
from mlxmesh_gateway.openai.responses.stream import Stream
from mlxmesh_shared.errors import TooManyRequests

MAX_READERS = 256
RETRY_S = 5.0


class BackgroundReaders:
    """The streams that a gateway reads to their ends, whoever reads them beside it.

    A response needs none of them to go on. With one, its use is counted here as that of any other,
    and it resumes at another generation instance when its own is lost.
    """

    def __init__(self, max_readers: int = MAX_READERS) -> None:
        self._max_readers = max_readers
        self._reading: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._reading)

    async def start(self, stream: Stream) -> None:
        """Returns once the first message has arrived.

        Raises: TooManyRequests; another MeshError if no message arrives.
        """
        accepted = asyncio.Event()

        async def write(_message: bytes) -> None:
            accepted.set()

        reading = self._read(stream, write)
        waiting = asyncio.ensure_future(accepted.wait())
        try:
            await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not accepted.is_set():
                await reading
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def follow(self, stream: Stream, write: Write) -> None:
        """Writes a stream, and reads it to its end if this is cancelled.

        Raises: TooManyRequests, and what the stream raises.
        """
        follows = True

        async def write_while_followed(message: bytes) -> None:
            if follows:
                await write(message)

        try:
            await asyncio.shield(self._read(stream, write_while_followed))
        finally:
            follows = False

    async def close(self) -> None:
        """Ends all of them; what they have read is counted when this returns."""
        reading = list(self._reading)
        for one in reading:
            one.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

    def _read(self, stream: Stream, write: Write) -> asyncio.Future[None]:
        if len(self._reading) >= self._max_readers:
            raise TooManyRequests(
                "too many responses run in the background at this gateway; try again later",
                retry_delay_s=RETRY_S,
            )
        reading = asyncio.ensure_future(stream(write))
        self._reading.add(reading)
        reading.add_done_callback(self._ended)
        return reading

    def _ended(self, reading: asyncio.Future[None]) -> None:
        self._reading.discard(reading)
        if not reading.cancelled():
            reading.exception()  # retained with the response, for whoever asks for it
