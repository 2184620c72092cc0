"""Reads responses in the background, so that the gateway sees how they end."""

from __future__ import annotations

import asyncio

from mlxmesh_gateway.openai.responses.stream import Stream

MAX_READERS = 256
"""Beyond it, a response goes on without a reader, as when its gateway is lost."""


class BackgroundReaders:
    """The streams that a gateway reads for nobody.

    A response needs none of them to go on. With one, its use is counted here as that of any other,
    and it resumes at another generation instance when its own is lost.
    """

    def __init__(self, max_readers: int = MAX_READERS) -> None:
        self._max_readers = max_readers
        self._reading: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._reading)

    async def start(self, stream: Stream) -> None:
        """Returns once the first message has arrived. Raises: MeshError if none does."""
        accepted = asyncio.Event()

        async def write(_message: bytes) -> None:
            accepted.set()

        reading = asyncio.ensure_future(stream(write))
        waiting = asyncio.ensure_future(accepted.wait())
        try:
            await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not accepted.is_set():
                await reading
            self._keep(reading)
        finally:
            waiting.cancel()
            if reading not in self._reading:
                reading.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    def _keep(self, reading: asyncio.Future[None]) -> None:
        if len(self._reading) < self._max_readers:
            self._reading.add(reading)
            reading.add_done_callback(self._ended)

    def _ended(self, reading: asyncio.Future[None]) -> None:
        self._reading.discard(reading)
        if not reading.cancelled():
            reading.exception()  # retained with the response, for whoever asks for it
