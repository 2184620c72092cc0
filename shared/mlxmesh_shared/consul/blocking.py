"""Consul's blocking queries, which wait until their result changes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import tenacity

from mlxmesh_shared.errors import RegistryUnavailable

# The longest time that a change is missed if Consul's index restarted between two queries.
MAX_WAIT_S = 30.0
# Agents stream changes from a server over a connection that may be dead after a partition, which
# they notice within 40 s: for so long after a failure, queries do not wait.
DISTRUST_S = 45.0
_POLL_S = 1.0
# Between two results of one query: several faster changes give one result.
_MIN_PAUSE_S = 0.05
_BACKOFF = tenacity.wait_exponential_jitter(multiplier=0.2, max=1.0, jitter=0.3)

T = TypeVar("T")


class BlockingQuery(Generic[T]):
    """Repeats one query, each time waiting for a change of its result."""

    def __init__(
        self,
        extra_pause_s: Callable[[T], float] = lambda _: 0.0,
        *,
        distrust_s: float = DISTRUST_S,
    ) -> None:
        """extra_pause_s: how much longer than by default to wait after a result of this size.

        Each result is the whole list, so that n changes of n entries cost n * n without it.

        distrust_s: for how long after a failure queries do not wait.
        """
        self._extra_pause_s = extra_pause_s
        self._pause_s = _MIN_PAUSE_S
        self._index = 0
        self._seen = 0
        self._last_s = 0.0
        self._distrust_s = distrust_s
        self._trusted_s = 0.0
        """When queries may wait again, by the event loop's clock."""
        self.went_back = False
        """Whether the index decreased with the last result: Consul lost its state."""

    async def next(
        self,
        ask: Callable[[int, float], Awaitable[tuple[int, T]]],
        wait_s: float = MAX_WAIT_S,
    ) -> T:
        """The next result; retries without end while Consul does not answer."""
        if asyncio.get_running_loop().time() < self._trusted_s:
            self._index = 0
            self._pause_s = max(self._pause_s, _POLL_S)
        await self._pause()
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(RegistryUnavailable), wait=_BACKOFF
        ):
            with attempt:
                # After a failure Consul's index may have restarted: it would not answer before it
                # had reached this one again.
                index, self._index = self._index, 0
                try:
                    found_at, answer = await ask(index, wait_s)
                except RegistryUnavailable:
                    self._trusted_s = asyncio.get_running_loop().time() + self._distrust_s
                    raise
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
