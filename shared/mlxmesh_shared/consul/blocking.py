"""Consul's blocking queries, which wait until their result changes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import tenacity

from mlxmesh_shared.errors import RegistryUnavailable

# The longest time that a change is missed if Consul's index restarted between two queries.
MAX_WAIT_S = 30.0
# Between two results of one query: several faster changes give one result.
_MIN_PAUSE_S = 0.05
_BACKOFF = tenacity.wait_exponential_jitter(multiplier=0.2, max=1.0, jitter=0.3)

T = TypeVar("T")


class BlockingQuery(Generic[T]):
    """Repeats one query, each time waiting for a change of its result."""

    def __init__(self, extra_pause_s: Callable[[T], float] = lambda _: 0.0) -> None:
        """extra_pause_s: how much longer than by default to wait after a result of this size.

        Each result is the whole list, so that n changes of n entries cost n * n without it.
        """
        self._extra_pause_s = extra_pause_s
        self._pause_s = _MIN_PAUSE_S
        self._index = 0
        self._seen = 0
        self._last_s = 0.0
        self.went_back = False
        """Whether the index decreased with the last result: Consul lost its state."""

    async def next(
        self,
        ask: Callable[[int, float], Awaitable[tuple[int, T]]],
        wait_s: float = MAX_WAIT_S,
    ) -> T:
        """The next result; retries without end while Consul does not answer."""
        await self._pause()
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(RegistryUnavailable), wait=_BACKOFF
        ):
            with attempt:
                # After a failure Consul's index may have restarted: it would not answer before it
                # had reached this one again.
                index, self._index = self._index, 0
                found_at, answer = await ask(index, wait_s)
                self._move_to(found_at)
                self._pause_s = _MIN_PAUSE_S + self._extra_pause_s(answer)
                return answer
        raise AssertionError("it retries for ever")

    def _move_to(self, index: int) -> None:
        """Source: Consul's API documentation, "Blocking queries", implementation details."""
        self.went_back = index < self._seen
        self._seen = index
        self._index = 0 if self.went_back else max(1, index)

    async def _pause(self) -> None:
        now_s = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._last_s + self._pause_s - now_s))
        self._last_s = asyncio.get_running_loop().time()
