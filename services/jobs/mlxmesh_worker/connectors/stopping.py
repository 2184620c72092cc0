"""Stops work at a back end when its run is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from mlxmesh_shared.errors import MeshError
from mlxmesh_worker.connectors.port import Reports

STOP_TIMEOUT_S = 2.0
T = TypeVar("T")


async def stopped_if_cancelled(
    work: Awaitable[T], stop: Callable[[], Awaitable[None]], reports: Reports
) -> T:
    """The result of work; if it is cancelled, `stop` is called before CancelledError is raised,
    unless the work is left to a later attempt.
    """
    try:
        return await work
    except asyncio.CancelledError:
        if not reports.leaves_work:
            # A back end that does not answer must not keep its worker from going on.
            with suppress(MeshError, TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await stop()
        raise
