"""ModelStreamInfer: requests of one client that run beside each other, and their responses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from mlxmesh_shared.errors import Draining, TooManyRequests

MAX_RUNNING = 32
"""Requests of one stream that run at once; further ones wait unread."""

Request = TypeVar("Request")
Response = TypeVar("Response")
Write = Callable[[Response], Awaitable[None]]
Serve = Callable[[Request, Write[Response]], Coroutine[Any, Any, None]]
"""Serves one request: writes its responses, also the one that reports an error."""


class InferStream(Generic[Request, Response]):
    """One stream. A slow reader makes each of its requests wait, and nobody else."""

    def __init__(self, serve: Serve[Request, Response], *, max_running: int = MAX_RUNNING) -> None:
        self._serve = serve
        self._places = asyncio.Semaphore(max_running)
        # One response: while the reader is slow, output stays with the generation, which merges it.
        self._responses: asyncio.Queue[Response | _End] = asyncio.Queue(maxsize=1)
        # A queue alone may give its place to the same request again and again.
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._closing = False
        self._failure: BaseException | None = None

    async def run(self, requests: AsyncIterator[Request], write: Write[Response]) -> None:
        """Serves requests until there are no more, and returns after the last response.

        Raises: the error of reading or serving a request, Draining; each after the responses to
        the requests before.
        """
        self._reading = asyncio.create_task(self._read(requests))
        if self._closing:
            self._reading.cancel()
        ending = asyncio.create_task(self._end(self._reading))
        try:
            while not isinstance(response := await self._responses.get(), _End):
                await write(response)
            if response.error is not None:
                raise response.error
        finally:
            tasks = (self._reading, ending, *self._running)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Reads no more requests; the stream ends after those that run."""
        self._closing = True
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        async for request in requests:
            await self._places.acquire()
            task = asyncio.create_task(self._serve(request, self._respond))
            self._running.add(task)
            task.add_done_callback(self._on_done)

    async def _respond(self, response: Response) -> None:
        async with self._turn:
            await self._responses.put(response)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._places.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self.close()

    async def _end(self, reading: asyncio.Task[None]) -> None:
        await asyncio.wait({reading})
        while self._running:
            await asyncio.wait(self._running)
        await self._responses.put(_End(self._error(reading)))

    def _error(self, reading: asyncio.Task[None]) -> BaseException | None:
        if self._failure is not None:
            return self._failure
        if self._closing:
            return Draining("this instance is stopping; try again at another")
        return None if reading.cancelled() else reading.exception()


def max_streams(*, max_message_bytes: int, max_held_bytes: int) -> int:
    """How many streams may be open.

    Each may occupy one request that never arrives completely, and these may be eight times the
    bytes of the requests that run.
    """
    return max(2, 8 * max_held_bytes // max_message_bytes)


class Streams:
    """The open streams of a server: a limited number, half of it for each caller."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[InferStream[Any, Any]] = set()
        self._by_caller: Counter[str] = Counter()
        self._closing = False

    @contextmanager
    def counted(self, caller: str, stream: InferStream[Any, Any]) -> Generator[None]:
        """Counts the stream until the body ends. Raises: TooManyRequests."""
        if len(self._open) >= self._limit or self._by_caller[caller] >= self._limit // 2:
            raise TooManyRequests(
                f"at most {self._limit} streams of this method may be open, and half of them of one"
                " caller; send several requests on one stream",
                retry_delay_s=1.0,
            )
        if self._closing:
            stream.close()
        self._open.add(stream)
        self._by_caller[caller] += 1
        try:
            yield
        finally:
            self._open.discard(stream)
            self._by_caller[caller] -= 1
            if not self._by_caller[caller]:
                del self._by_caller[caller]

    def close(self) -> None:
        """Closes every stream, also those that open later."""
        self._closing = True
        for stream in self._open:
            stream.close()


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error
