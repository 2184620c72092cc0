"""Wakes the tasks of this process that wait for a change."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress


class ChangeSignal:
    """One event per subscriber."""

    def __init__(self) -> None:
        self._events: set[asyncio.Event] = set()

    @contextmanager
    def subscribe(self) -> Generator[asyncio.Event]:
        """An event that is set at each change; the subscriber clears it before it reads."""
        event = asyncio.Event()
        self._events.add(event)
        try:
            yield event
        finally:
            self._events.discard(event)

    def notify(self) -> None:
        """Sets every subscriber's event."""
        for event in self._events:
            event.set()

    async def poll(
        self,
        sequence: Callable[[], Awaitable[int]],
        interval_s: float,
        others: asyncio.Event | None = None,
    ) -> None:
        """Notifies of changes by other processes, which change the sequence number; never ends.

        others: set while there are other processes that may make changes; None for always.
        """
        known = await sequence()
        while True:
            if others is not None:
                await others.wait()
            await asyncio.sleep(interval_s)
            # The calls that need the database report its errors.
            with suppress(Exception):
                now = await sequence()
                if now != known:
                    known = now
                    self.notify()
