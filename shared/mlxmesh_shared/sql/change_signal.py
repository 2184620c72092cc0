"""Wakes the tasks of this process that wait for a change."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


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
