"""Whose turn it is: equal shares for all callers, and each caller's own by priority. Pure."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

# Beyond this, what is over is cleared away as soon as it outnumbers what is not.
_FORGET_ABOVE = 256


@dataclass(order=True, slots=True)
class _Entry(Generic[T]):
    """One item in its caller's line; of those that leave out of turn, `item` is taken out."""

    rank: float
    number: int
    item: T | None = field(compare=False)
    cost: int = field(compare=False)
    caller: str = field(compare=False)


@dataclass(slots=True)
class _Line(Generic[T]):
    """What one caller waits for; `number` says which entry of the turns is its valid one."""

    entries: list[_Entry[T]]
    waiting: int = 0
    number: int = 0


class FairQueue(Generic[T]):
    """Start-time fair queueing over callers: whoever was given least so far is next.

    What a caller was given is counted in costs. A caller that comes anew starts at the average of
    those that wait, so it neither overtakes nor owes for having been away, and even a crowd of new
    callers cannot hold up an old one for ever. Each operation takes O(log n).

    Source: Goyal, Vin, Cheng, "Start-time Fair Queueing" (1996); the average as virtual time:
    Bennett, Zhang, "Hierarchical Packet Fair Queueing Algorithms" (1996).
    """

    def __init__(self) -> None:
        self._entries: dict[T, _Entry[T]] = {}
        self._lines: dict[str, _Line[T]] = {}
        self._turns: list[tuple[float, int, str]] = []
        """(given so far, number, caller), one valid for each caller that waits."""
        self._given: dict[str, float] = {}
        self._average = 0.0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries)

    def push(self, item: T, *, caller: str, priority: int, cost: int, since_s: float) -> None:
        """A waiting item's priority rises by 1 a second, so its rank among others never changes."""
        entry = _Entry(since_s - priority, next(self._numbers), item, cost, caller)
        self._entries[item] = entry
        line = self._lines.get(caller)
        if line is None:
            line = self._lines[caller] = _Line([])
            self._given[caller] = max(self._average, self._given.get(caller, 0.0))
            self._take_turn(caller, line)
        heapq.heappush(line.entries, entry)
        line.waiting += 1

    def peek(self) -> T | None:
        """Who is next, None when nobody waits."""
        while self._turns and not self._valid(self._turns[0]):
            heapq.heappop(self._turns)
        if not self._turns:
            return None
        entries = self._lines[self._turns[0][2]].entries
        while (item := entries[0].item) is None:
            heapq.heappop(entries)
        return item

    def pop(self) -> T | None:
        """Takes out who is next."""
        item = self.peek()
        if item is None:
            return None
        entry = self._entries[item]
        given = self._given[entry.caller]
        self._average = max(self._average, given) + entry.cost / len(self._lines)
        self._given[entry.caller] = given + entry.cost
        heapq.heappop(self._turns)
        self.remove(item)
        if (line := self._lines.get(entry.caller)) is not None:
            self._take_turn(entry.caller, line)
        return item

    def remove(self, item: T) -> bool:
        """Takes out an item that leaves out of turn; False when it is not here."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return False
        # It stays in its line until it comes up, but holds nothing.
        entry.item = None
        line = self._lines[entry.caller]
        line.waiting -= 1
        if not line.waiting:
            del self._lines[entry.caller]
            self._forget_settled()
        elif len(line.entries) > _FORGET_ABOVE + 2 * line.waiting:
            line.entries = [each for each in line.entries if each.item is not None]
            heapq.heapify(line.entries)
        return True

    def _valid(self, turn: tuple[float, int, str]) -> bool:
        line = self._lines.get(turn[2])
        return line is not None and line.number == turn[1]

    def _take_turn(self, caller: str, line: _Line[T]) -> None:
        line.number = next(self._numbers)
        heapq.heappush(self._turns, (self._given[caller], line.number, caller))

    def _forget_settled(self) -> None:
        """Drops what is over, and callers who are away and would start at the average anyway."""
        if len(self._turns) > _FORGET_ABOVE + 2 * len(self._lines):
            self._turns = [turn for turn in self._turns if self._valid(turn)]
            heapq.heapify(self._turns)
        if len(self._given) > _FORGET_ABOVE + 2 * len(self._lines):
            self._given = {
                caller: given
                for caller, given in self._given.items()
                if caller in self._lines or given > self._average
            }
