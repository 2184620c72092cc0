"""A wait for an engine that ends early when its generation is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class CancellableWait:
    """Runs one coroutine, until it is cancelled."""

    def __init__(self) -> None:
        self._cancelled = False
        self._task: asyncio.Task[None] | None = None

    async def run(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Returns once it is cancelled, too. Raises: what the coroutine raises."""
        task = self._task = asyncio.ensure_future(waiting)
        if self._cancelled:
            task.cancel()
        try:
            await asyncio.wait((task,))
        finally:
            self._task = None
            task.cancel()
        if not task.cancelled():
            task.result()

    def cancel(self) -> None:
        """Ends the wait, also one that begins later."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()
