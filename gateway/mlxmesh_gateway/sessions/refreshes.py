"""Refreshes sessions once, although several tabs of a browser may ask at the same time.

A refresh token works once, and its second use ends the session. So whoever presents the same token
shortly after gets the same new tokens.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Generic, TypeVar

REPEAT_S = 20.0
"""How long the same token is answered again: until slow tabs have their response."""
MAX_ENTRIES = 1024

T = TypeVar("T")


class Refreshes(Generic[T]):
    """What refresh tokens were exchanged for lately; bounded."""

    def __init__(self, *, repeat_s: float = REPEAT_S) -> None:
        self._repeat_s = repeat_s
        self._tasks: OrderedDict[bytes, asyncio.Task[T]] = OrderedDict()

    async def once(self, refresh_token: str, refresh: Callable[[], Awaitable[T]]) -> T:
        """The result of `refresh`, also for those who ask meanwhile and shortly after. Raises: its
        error.
        """
        digest = sha256(refresh_token.encode()).digest()
        task = self._tasks.get(digest)
        if task is None:
            task = asyncio.ensure_future(_awaited(refresh))
            self._tasks[digest] = task
            task.add_done_callback(lambda done: self._forget_later(digest, done))
            while len(self._tasks) > MAX_ENTRIES:
                self._tasks.popitem(last=False)
        # A tab that is closed must not end it for the others.
        return await asyncio.shield(task)

    def _forget_later(self, digest: bytes, task: asyncio.Task[T]) -> None:
        failed = task.cancelled() or task.exception() is not None
        loop = asyncio.get_running_loop()
        loop.call_later(0 if failed else self._repeat_s, self._tasks.pop, digest, None)


async def _awaited(refresh: Callable[[], Awaitable[T]]) -> T:
    return await refresh()
