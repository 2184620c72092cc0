"""How many requests run at an upstream at a time, and who is next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

_FLEX_SHARE = 0.75
"""The flex tier may hold this part of the places: a request of the standard tier finds one."""


class Places:
    """Given in the order of arrival; the flex tier gets one while no other request waits."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._free_for_flex = max(1, int(count * _FLEX_SHARE))
        self._standard: deque[asyncio.Future[None]] = deque()
        self._flex: deque[asyncio.Future[None]] = deque()

    def waiting(self, *, flex: bool) -> int:
        """How many requests of a tier wait."""
        return len(self._queue(flex=flex))

    @asynccontextmanager
    async def holding(self, *, flex: bool) -> AsyncGenerator[None]:
        """Waits for a place and holds it."""
        await self._take(flex=flex)
        try:
            yield
        finally:
            self._give_back(flex=flex)

    async def _take(self, *, flex: bool) -> None:
        queue, turn = self._queue(flex=flex), asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn in queue:
                queue.remove(turn)
            else:
                self._give_back(flex=flex)
            raise

    def _give_back(self, *, flex: bool) -> None:
        self._free += 1
        self._free_for_flex += flex
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free and self._standard:
            self._free -= 1
            _admit(self._standard)
        while self._free and self._free_for_flex and self._flex:
            self._free -= 1
            self._free_for_flex -= 1
            _admit(self._flex)

    def _queue(self, *, flex: bool) -> deque[asyncio.Future[None]]:
        return self._flex if flex else self._standard


def _admit(queue: deque[asyncio.Future[None]]) -> None:
    """Admits the first one; a cancelled one gives its place back when its task runs."""
    turn = queue.popleft()
    if not turn.done():
        turn.set_result(None)
