"""Finds the instance that has something: the likeliest first, then all others; or all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mlxmesh_shared.errors import MeshError, NotFound

E = TypeVar("E")
T = TypeVar("T")

# A frozen instance must not delay the search; others answer within milliseconds.
FIRST_TIMEOUT_S = 0.1
# When only the newest answer will do: a frozen instance is known to be lost after about so long.
ALL_TIMEOUT_S = 1.0


async def first_success(
    first: E,
    others: Sequence[E],
    ask: Callable[[E], Awaitable[T]],
    *,
    first_timeout_s: float = FIRST_TIMEOUT_S,
) -> T:
    """The first success. The others are asked once the first has failed or is slow.

    Raises: what prevented a success, NotFound only if every endpoint raised it.
    """
    asked = {asyncio.ensure_future(ask(first))}
    remaining = set(asked)
    waiting = list(others)
    errors: list[MeshError] = []
    try:
        while remaining:
            done, remaining = await asyncio.wait(
                remaining,
                timeout=first_timeout_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                try:
                    return task.result()
                except MeshError as error:
                    errors.append(error)
            started = {asyncio.ensure_future(ask(each)) for each in waiting}
            waiting.clear()
            asked |= started
            remaining |= started
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise _most_telling(errors)


async def every_success(
    endpoints: Sequence[E], ask: Callable[[E], Awaitable[T]], timeout_s: float
) -> list[T]:
    """The successes of all endpoints, at least one, in their order.

    Once there is one, it waits timeout_s at most, counted from the beginning.
    Raises: as first_success().
    """
    asked = [asyncio.ensure_future(ask(each)) for each in endpoints]
    try:
        _, remaining = await asyncio.wait(asked, timeout=timeout_s)
        while remaining and not _results(asked):
            _, remaining = await asyncio.wait(remaining, return_when=asyncio.FIRST_COMPLETED)
        found = _results(asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    if not found:
        errors = (task.exception() for task in asked)
        raise _most_telling([error for error in errors if isinstance(error, MeshError)])
    return found


def _results(asked: Sequence[asyncio.Future[T]]) -> list[T]:
    """Raises: what is no MeshError."""
    done = [task for task in asked if task.done()]
    return [task.result() for task in done if not isinstance(task.exception(), MeshError)]


def _most_telling(errors: Sequence[MeshError]) -> MeshError:
    # One that has it under other numbers says more than those that have nothing.
    return min(errors, key=lambda error: (isinstance(error, NotFound), error.field != "numbering"))
