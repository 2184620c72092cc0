"""The last events of a process in order, for readers of different speed."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import islice, takewhile

from mlxmesh.telemetry.v1.events_pb2 import Event

MAX_BATCH_EVENTS = 256


@dataclass(frozen=True)
class Batch:
    """Consecutive events, at least one."""

    events: list[Event]
    lost: int
    """How many events before these were dropped before this reader read them."""
    last: int
    """The number of the last of them."""


class EventLog:
    """Numbers events 1, 2, 3 ... and retains the last `max_events` of them.

    A slow reader does not delay others; it gets the number of the events that it missed.
    """

    def __init__(self, max_events: int) -> None:
        self._events: deque[Event] = deque(maxlen=max_events)
        self._changed = asyncio.Event()
        self.newest = 0
        """The number of the last event; 0 before the first."""

    @property
    def oldest(self) -> int:
        """The number of the first retained event, or of the next event if none is retained."""
        return self.newest - len(self._events) + 1

    def add(self, event: Event) -> None:
        """Appends an event; the log owns it."""
        self.newest += 1
        self._events.append(event)
        self._changed.set()
        self._changed = asyncio.Event()

    def before(self, time_ns: int) -> int:
        """The number of the last event that happened before a time, in nanoseconds since 1970."""
        later = takewhile(
            lambda event: event.time.ToNanoseconds() >= time_ns, reversed(self._events)
        )
        return self.newest - sum(1 for _ in later)

    async def follow(self, after: int) -> AsyncGenerator[Batch]:
        """Yields the events after a number as they arrive; never ends."""
        while True:
            while after >= self.newest:
                await self._changed.wait()
            lost = max(0, self.oldest - 1 - after)
            start = after + lost + 1 - self.oldest
            events = list(islice(self._events, start, start + MAX_BATCH_EVENTS))
            after += lost + len(events)
            yield Batch(events, lost, after)
