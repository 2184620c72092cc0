"""Asks several instances when only one of them knows the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mlxmesh_gateway.upstream.backends import Endpoint
from mlxmesh_shared.errors import MeshError, NotFound

T = TypeVar("T")

HEAD_START_S = 0.25
"""How long the first instance is asked alone. One that hangs must not delay the others' answer."""


async def first_answer(
    endpoints: Sequence[Endpoint],
    ask: Callable[[Endpoint], Awaitable[T]],
    *,
    head_start_s: float = HEAD_START_S,
) -> T:
    """Asks the first endpoint; if it fails or is slow, all others too. Returns the first answer.

    Raises: the error of an endpoint if all fail, NotFound only if all raised it.
    """
    asked = [asyncio.ensure_future(ask(endpoints[0]))]
    try:
        await asyncio.wait(asked, timeout=head_start_s)
        if not _has_answered(asked[0]):
            asked += [asyncio.ensure_future(ask(endpoint)) for endpoint in endpoints[1:]]
        return await _first_of(asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _first_of(asked: Sequence[asyncio.Future[T]]) -> T:
    errors: list[MeshError] = []
    for answer in asyncio.as_completed(asked):
        try:
            return await answer
        except MeshError as error:
            errors.append(error)
    raise min(errors, key=lambda error: isinstance(error, NotFound))


def _has_answered(task: asyncio.Future[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
