"""The last events of a process, in order, for readers that each go at their own pace."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import islice, takewhile

from mlxmesh.telemetry.v1.events_pb2 import Event

MAX_IN_A_BATCH = 256


@dataclass(frozen=True)
class Batch:
    """What a reader gets at once; at least one event."""

    events: list[Event]
    lost: int
    """Events before these that were given up before this reader came to them."""
    last: int
    """The number of the last of them."""


class EventLog:
    """Numbers events 1, 2, 3 ... and keeps the last `most` of them.

    A slow reader costs nothing and holds nobody up: it is told how many events it missed.
    """

    def __init__(self, most: int) -> None:
        self._events: deque[Event] = deque(maxlen=most)
        self._changed = asyncio.Event()
        self.newest = 0
        """The number of the last event; 0 before the first."""

    @property
    def oldest(self) -> int:
        """The number of the first event that is kept, or of the next one where none is."""
        return self.newest - len(self._events) + 1

    def add(self, event: Event) -> None:
        """Keeps one more event; the log owns it."""
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
        """The events after a number, as soon as there are some; never ends."""
        while True:
            while after >= self.newest:
                await self._changed.wait()
            lost = max(0, self.oldest - 1 - after)
            start = after + lost + 1 - self.oldest
            events = list(islice(self._events, start, start + MAX_IN_A_BATCH))
            after += lost + len(events)
            yield Batch(events, lost, after)
