"""Turns at work that holds the interpreter: one at a time, and a rest as long as each took."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

MAX_REST_S = 0.5


@dataclass
class _Line:
    """Those of one caller: only the first of them waits for the turn that all share."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class Turns:
    """Callers take turns, whatever the number of requests of each.

    Since the next turn begins only after the rest, such work takes at most half of the event loop.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def of(self, caller: str) -> AsyncGenerator[None]:
        """Runs the body when it is this caller's turn."""
        line = self._lines.setdefault(caller, _Line())
        line.waiting += 1
        try:
            async with line.lock:
                await self._turn.acquire()
                started_s = time.monotonic()
                try:
                    yield
                finally:
                    rest_s = min(MAX_REST_S, time.monotonic() - started_s)
                    asyncio.get_running_loop().call_later(rest_s, self._turn.release)
        finally:
            line.waiting -= 1
            if not line.waiting:
                del self._lines[caller]
