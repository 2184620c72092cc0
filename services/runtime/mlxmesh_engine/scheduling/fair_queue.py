"""A queue that shares equally between callers and orders each caller's items by priority. Pure."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

# Stale entries are dropped once they exceed this number and outnumber the valid ones.
_COMPACT_ABOVE = 256


@dataclass(order=True, slots=True)
class _Entry(Generic[T]):
    """One item in its caller's heap; `item` is None once it was removed."""

    rank: float
    number: int
    item: T | None = field(compare=False)
    cost: int = field(compare=False)
    caller: str = field(compare=False)


@dataclass(slots=True)
class _CallerHeap(Generic[T]):
    """The waiting items of one caller; `number` identifies its valid entry in the order."""

    entries: list[_Entry[T]]
    waiting: int = 0
    number: int = 0


class FairQueue(Generic[T]):
    """Start-time fair queueing over callers: the caller that was served least is next.

    Service is counted in costs. A caller that arrives starts at the average of the waiting
    callers, so that absence is neither credit nor debt, and even a stream of new callers cannot
    starve an old one. Each operation takes O(log n).

    Source: Goyal, Vin, Cheng, "Start-time Fair Queueing" (1996); the average as virtual time:
    Bennett, Zhang, "Hierarchical Packet Fair Queueing Algorithms" (1996).
    """

    def __init__(self) -> None:
        self._entries: dict[T, _Entry[T]] = {}
        self._heaps: dict[str, _CallerHeap[T]] = {}
        self._order: list[tuple[float, int, str]] = []
        """(served cost, number, caller), one valid entry for each waiting caller."""
        self._served: dict[str, float] = {}
        self._virtual_time = 0.0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries)

    def push(self, item: T, *, caller: str, priority: int, cost: int, since_s: float) -> None:
        """Adds an item. Its priority rises by 1 per second, so ranks among items never change."""
        entry = _Entry(since_s - priority, next(self._numbers), item, cost, caller)
        self._entries[item] = entry
        heap = self._heaps.get(caller)
        if heap is None:
            heap = self._heaps[caller] = _CallerHeap([])
            self._served[caller] = max(self._virtual_time, self._served.get(caller, 0.0))
            self._enqueue_caller(caller, heap)
        heapq.heappush(heap.entries, entry)
        heap.waiting += 1

    def peek(self) -> T | None:
        """The next item; None if the queue is empty."""
        while self._order and not self._is_valid(self._order[0]):
            heapq.heappop(self._order)
        if not self._order:
            return None
        entries = self._heaps[self._order[0][2]].entries
        while (item := entries[0].item) is None:
            heapq.heappop(entries)
        return item

    def pop(self) -> T | None:
        """Removes and returns the next item."""
        item = self.peek()
        if item is None:
            return None
        entry = self._entries[item]
        served = self._served[entry.caller]
        self._virtual_time = max(self._virtual_time, served) + entry.cost / len(self._heaps)
        self._served[entry.caller] = served + entry.cost
        heapq.heappop(self._order)
        self.remove(item)
        if (heap := self._heaps.get(entry.caller)) is not None:
            self._enqueue_caller(entry.caller, heap)
        return item

    def remove(self, item: T) -> bool:
        """Removes an item at any position; False if it is not in the queue."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return False
        # The empty entry stays in its heap until it reaches the top.
        entry.item = None
        heap = self._heaps[entry.caller]
        heap.waiting -= 1
        if not heap.waiting:
            del self._heaps[entry.caller]
            self._compact()
        elif len(heap.entries) > _COMPACT_ABOVE + 2 * heap.waiting:
            heap.entries = [each for each in heap.entries if each.item is not None]
            heapq.heapify(heap.entries)
        return True

    def _is_valid(self, position: tuple[float, int, str]) -> bool:
        heap = self._heaps.get(position[2])
        return heap is not None and heap.number == position[1]

    def _enqueue_caller(self, caller: str, heap: _CallerHeap[T]) -> None:
        heap.number = next(self._numbers)
        heapq.heappush(self._order, (self._served[caller], heap.number, caller))

    def _compact(self) -> None:
        """Drops stale positions, and absent callers that would start at the average anyway."""
        if len(self._order) > _COMPACT_ABOVE + 2 * len(self._heaps):
            self._order = [position for position in self._order if self._is_valid(position)]
            heapq.heapify(self._order)
        if len(self._served) > _COMPACT_ABOVE + 2 * len(self._heaps):
            self._served = {
                caller: served
                for caller, served in self._served.items()
                if caller in self._heaps or served > self._virtual_time
            }
