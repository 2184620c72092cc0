"""What waits to be exported, in bounded memory. Pure."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """First in, first out; what finds it full is dropped and counted."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        if len(self._items) < self._capacity:
            self._items.append(item)
        else:
            self.dropped += 1

    def take(self, most: int) -> list[T]:
        """Up to so many, the oldest first."""
        return [self._items.popleft() for _ in range(min(most, len(self._items)))]
