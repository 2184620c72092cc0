"""What a thread tells the event loop that started it."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def call_on(
    event_loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object
) -> None:
    """Calls it soon on the event loop; nothing, if that is closed while the process shuts down."""
    with contextlib.suppress(RuntimeError):
        event_loop.call_soon_threadsafe(function, *args)


def succeed(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def fail(future: asyncio.Future[object], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
