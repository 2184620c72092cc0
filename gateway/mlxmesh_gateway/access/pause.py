"""Waiting that something may end early."""

from __future__ import annotations

import asyncio
import contextlib


async def pause(seconds: float, wake: asyncio.Event) -> None:
    """Waits, less long if the event is set; clears it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()
    wake.clear()
