"""Finds the instance that has something: asks the likeliest first, then all others at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mlxmesh_shared.errors import MeshError, NotFound

E = TypeVar("E")
T = TypeVar("T")

# A frozen instance must not delay the search; others answer within milliseconds.
FIRST_TIMEOUT_S = 0.1


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
    raise min(errors, key=lambda error: isinstance(error, NotFound))
