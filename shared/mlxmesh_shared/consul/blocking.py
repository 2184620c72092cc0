"""Consul's blocking queries: one question, asked again and again as its answer changes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from mlxmesh_shared.errors import RegistryUnavailable

# Bounds how long a change may be missed where Consul's count began again between two queries.
MAX_WAIT_S = 30.0
# Between two answers of one query: what changes faster is told in fewer answers.
_MIN_PAUSE_S = 0.05
_BACKOFF = tenacity.wait_exponential_jitter(multiplier=0.2, max=3.0, jitter=0.3)

T = TypeVar("T")


class BlockingQuery:
    """Asks one question again and again, each time waiting for the answer to change."""

    def __init__(self) -> None:
        self._index = 0
        self._seen = 0
        self._last_s = 0.0
        self.went_back = False
        """Whether Consul's index went backwards with the last answer: it lost what it knew."""

    async def next(
        self,
        ask: Callable[[int, float], Awaitable[tuple[int, T]]],
        wait_s: float = MAX_WAIT_S,
    ) -> T:
        """The next answer; a Consul that does not give one is asked again for ever."""
        await self._pause()
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(RegistryUnavailable), wait=_BACKOFF
        ):
            with attempt:
                # After a failure Consul may have begun its count again, and would not answer
                # before it had reached this one.
                index, self._index = self._index, 0
                found_at, answer = await ask(index, wait_s)
                self._move_to(found_at)
                return answer
        raise AssertionError("it retries for ever")

    def _move_to(self, index: int) -> None:
        """Source: Consul's API documentation, "Blocking queries", implementation details."""
        self.went_back = index < self._seen
        self._seen = index
        self._index = 0 if self.went_back else max(1, index)

    async def _pause(self) -> None:
        now_s = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._last_s + _MIN_PAUSE_S - now_s))
        self._last_s = asyncio.get_running_loop().time()
