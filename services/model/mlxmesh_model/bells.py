"""Those in this process who wait for a change of the catalogue."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class Bells:
    """An event for each of them."""

    def __init__(self) -> None:
        self._bells: set[asyncio.Event] = set()

    @contextmanager
    def listening(self) -> Generator[asyncio.Event]:
        """An event that is set at each change; the holder clears it before it looks."""
        event = asyncio.Event()
        self._bells.add(event)
        try:
            yield event
        finally:
            self._bells.discard(event)

    def ring(self) -> None:
        """Sets all of them."""
        for bell in self._bells:
            bell.set()
