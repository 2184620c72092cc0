"""Work that runs as long as a part of the process does."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def running_in_background(*work: Coroutine[Any, Any, Any]) -> AsyncGenerator[None]:
    """Runs the coroutines until the body ends, then cancels those that still run.

    If one fails, the body is cancelled and its error raised: a process without this work must not
    go on serving.
    """
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each) for each in work]
        yield
        for task in running:
            task.cancel()
