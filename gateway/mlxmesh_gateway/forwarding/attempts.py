"""The attempts of one call: elsewhere when an instance is gone; at two at once when hedged."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from mlxmesh_gateway.forwarding.endpoint import Endpoint
from mlxmesh_gateway.forwarding.statuses import is_gone
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.resilience.retries import RetryBudget

T = TypeVar("T")

Answered = Callable[[], None]
Try = Callable[[Endpoint, Answered], Awaitable[T]]
"""One attempt at an endpoint. It reports its first message, which cancels all other attempts."""

MAX_TRIES = 3


class Attempts(Generic[T]):
    """Makes one call; with one endpoint, exactly once. Raises: the error of the last attempt."""

    def __init__(self, attempt: Try[T], endpoints: Sequence[Endpoint], budget: RetryBudget) -> None:
        self._attempt = attempt
        self._endpoints: Iterator[Endpoint] = iter(endpoints[:MAX_TRIES])
        self._budget = budget
        self._answered = False
        self._running: set[asyncio.Task[T]] = set()

    async def run(self, hedge_after_s: float | None = None) -> T:
        """The first response; after hedge_after_s without one, a second instance is asked too."""
        self._budget.on_call()
        first = next(self._endpoints)
        if hedge_after_s is None:
            return await self._one_after_another(first)
        try:
            return await self._side_by_side(first, hedge_after_s)
        finally:
            await self._cancel_rest()

    async def _one_after_another(self, endpoint: Endpoint) -> T:
        while True:
            try:
                return await self._try(endpoint)
            except MeshError as error:
                spare = self._spare_after(error)
                if spare is None:
                    raise
                endpoint = spare

    async def _side_by_side(self, first: Endpoint, hedge_after_s: float) -> T:
        self._start(first)
        done, _ = await asyncio.wait(self._running, timeout=hedge_after_s)
        if not done and not self._answered:
            self._start(self._spare())
        while True:
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            self._running -= done
            # Both may have ended by now: a response takes precedence over an error.
            for task in sorted(done, key=_failed):
                if task.cancelled():
                    continue  # the other one answered first
                error = task.exception()
                if error is None:
                    return task.result()
                # An error is the result only if no other attempt can still succeed.
                if not self._running and not self._start(self._spare_after(error)):
                    raise error

    async def _try(self, endpoint: Endpoint) -> T:
        async with endpoint.busy() as permit:

            def answered() -> None:
                permit.answered()
                self._answered = True
                current = asyncio.current_task()
                for task in self._running:
                    if task is not current:
                        task.cancel()

            return await self._attempt(endpoint, answered)

    def _start(self, endpoint: Endpoint | None) -> bool:
        if endpoint is not None:
            self._running.add(asyncio.create_task(self._try(endpoint)))
        return endpoint is not None

    def _spare_after(self, error: BaseException) -> Endpoint | None:
        gone = isinstance(error, MeshError) and is_gone(error)
        return self._spare() if gone and not self._answered else None

    def _spare(self) -> Endpoint | None:
        """Another endpoint, charged to the budget; None without one, or with the budget spent."""
        spare = next(self._endpoints, None)
        return spare if spare is not None and self._budget.try_spend() else None

    async def _cancel_rest(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None
