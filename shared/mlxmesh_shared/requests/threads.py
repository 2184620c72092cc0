"""Work on a thread that counts as long as it runs: a thread cannot be stopped from outside."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def finish_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As asyncio.to_thread, but a cancellation is raised only once the work has ended.

    Else who cancels calls could have any number of threads at work, and as many requests in memory.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # seen, so that nobody logs it
        raise cancelled
    return running.result()
