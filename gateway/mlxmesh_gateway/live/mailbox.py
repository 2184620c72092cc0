"""What one watcher has yet to receive: newer states replace older ones, so that it is bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
"""What a topic is."""
MAX_IN_ORDER = 256


class Mailbox(Generic[K]):
    """Items by topic; within a topic by key, of which only the newest item is kept."""

    def __init__(
        self,
        interval_s: float,
        *,
        paced: frozenset[K],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """paced: topics whose items are taken at most once in an interval."""
        self._interval_s = interval_s
        self._paced = paced
        self._clock = clock
        self._waiting: dict[K, dict[Hashable, Any]] = {}
        self._due_s: dict[K, float] = {}
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._numbers = 0

    def put(self, topic: K, key: Hashable, item: Any) -> None:
        """Adds an item behind the others of its topic, in place of an older one with its key."""
        waiting = self._waiting.setdefault(topic, {})
        waiting.pop(key, None)
        waiting[key] = item
        self._changed.set()

    def put_older(self, topic: K, key: Hashable, item: Any) -> None:
        """Adds an item unless there is one with its key, which is newer."""
        if key not in self._waiting.get(topic, {}):
            self.put(topic, key, item)

    async def put_in_order(self, topic: K, item: Any) -> None:
        """Adds an item that no other one replaces; waits while too many wait."""
        while len(self._waiting.get(topic, {})) >= MAX_IN_ORDER:
            self._taken.clear()
            await self._taken.wait()
        self._numbers += 1
        self.put(topic, self._numbers, item)

    async def take(self) -> tuple[K, list[Any]]:
        """The items of one topic, once there are any that may be taken."""
        while True:
            self._changed.clear()
            now_s = self._clock()
            for topic in list(self._waiting):
                if self._due_s.get(topic, 0.0) <= now_s:
                    return self._take(topic, now_s)
            await self._until_due(now_s)

    def _take(self, topic: K, now_s: float) -> tuple[K, list[Any]]:
        items = list(self._waiting.pop(topic).values())
        if topic in self._paced:
            self._due_s[topic] = now_s + self._interval_s
        self._taken.set()
        return topic, items

    async def _until_due(self, now_s: float) -> None:
        """Until something is added, or what waits is due."""
        due_s = [self._due_s[topic] for topic in self._waiting]
        try:
            async with asyncio.timeout(min(due_s) - now_s if due_s else None):
                await self._changed.wait()
        except TimeoutError:
            return
