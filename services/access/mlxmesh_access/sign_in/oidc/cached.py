"""A value that is fetched when it is needed, at most once at a time, and kept for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Cached(Generic[_Value]):
    """Everybody who needs the value while it is being fetched gets the same result or error."""

    def __init__(
        self, fetch: Callable[[], Awaitable[_Value]], monotonic: Callable[[], float]
    ) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._fetched: tuple[_Value, float] | None = None
        self._running: asyncio.Task[_Value] | None = None

    async def get(self, max_age_s: float) -> _Value:
        """The value, fetched again if it is older. Raises: what fetching raises."""
        if self._fetched is not None:
            value, since_s = self._fetched
            if self._monotonic() - since_s < max_age_s:
                return value
        if self._running is None:
            self._running = asyncio.create_task(self._fetch_once())
            self._running.add_done_callback(self._done)
        # A caller that gives up does not take the value from the others.
        return await asyncio.shield(self._running)

    async def close(self) -> None:
        """Ends what is being fetched."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _fetch_once(self) -> _Value:
        value = await self._fetch()
        self._fetched = (value, self._monotonic())
        return value

    def _done(self, task: asyncio.Task[_Value]) -> None:
        self._running = None
        if not task.cancelled():
            task.exception()  # perhaps all callers have given up
