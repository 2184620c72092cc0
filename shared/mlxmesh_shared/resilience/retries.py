"""How many second tries a process may make, so that retries never multiply an overload. Pure.

Source: gRFC A6 (retry throttling); the floor is that of Finagle's retry budget.
"""

import math
import time
from collections import deque
from collections.abc import Callable

PER_CALL = 0.2
FLOOR_PER_S = 10.0
# Ten seconds of the floor: an instance that dies takes all of its calls with it at one moment.
MOST = 100.0


class RetryBudget:
    """A bucket of tokens: calls and time fill it, each retry takes one."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._tokens = MOST
        self._filled_s = now_s()

    def on_call(self) -> None:
        """A first try was made."""
        self._fill(PER_CALL)

    def take(self) -> bool:
        """Whether one retry may be made now; then it counts as made."""
        now_s = self._now_s()
        self._fill((now_s - self._filled_s) * FLOOR_PER_S)
        self._filled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _fill(self, tokens: float) -> None:
        self._tokens = min(MOST, self._tokens + tokens)


SHORTEST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
# Before anything was seen to end: how long a place is held, and how many ends that is worth.
_FIRST_GUESS_S = 5.0
_GUESS_WEIGHT = 0.2
# What is so long ago weighs a third.
_MEMORY_S = 30.0
# Ends come in clumps: who is told a little more than the mean finds a place more often.
SLACK = 1.25
# How much later than told somebody may come back and still find the place kept.
_GRACE_S = 0.25
_MAX_PROMISED = 4096


class RetryDelayEstimator:
    """Tells each who is refused a time of its own to come back, as places are likely to come free.

    A place is held for (place-seconds passed) / (places given back) on average, both fading with
    time; the gap between two places coming free is that, divided by the places held.
    Source: Little, "A Proof for the Queuing Formula L = λW" (1961).
    """

    def __init__(self, *, servers: int | None = None) -> None:
        """Of the places held, at most `servers` are worked on at a time; the rest wait."""
        self._servers = servers
        self._place_seconds = _FIRST_GUESS_S * _GUESS_WEIGHT
        self._ends = _GUESS_WEIGHT
        self._changed_s: float | None = None
        self._promised_s: deque[float] = deque()
        """When those who were refused will come, in order."""
        self.held = 0

    def take(self, now_s: float) -> None:
        self._pass_time(now_s)
        self.held += 1

    def give_back(self, now_s: float, *, counts: bool = True) -> None:
        """Does not count where it tells nothing about the next: a refusal, a crash."""
        self._pass_time(now_s)
        self.held -= 1
        self._ends += counts

    def promise(self, now_s: float) -> float:
        """After how many seconds the next who is refused should come back, SHORTEST to LONGEST."""
        self._pass_time(now_s)
        self._forget_missed(now_s)
        last_s = self._promised_s[-1] if self._promised_s else now_s
        due_s = max(last_s, now_s + SHORTEST_DELAY_S - self._gap_s) + self._gap_s
        if due_s - now_s > LONGEST_DELAY_S:
            return LONGEST_DELAY_S
        if len(self._promised_s) < _MAX_PROMISED:
            self._promised_s.append(due_s)
        return due_s - now_s

    def welcome(self, free: int, now_s: float) -> bool:
        """Whether somebody who asks now may have one of the free places.

        Who is due keeps a promise by it. Who is not leaves a place to each who comes any moment.
        """
        self._forget_missed(now_s)
        if free < 1:
            return False
        if self._promised_s and self._promised_s[0] <= now_s:
            self._promised_s.popleft()
            return True
        soon = sum(1 for due_s in self._first(free) if due_s <= now_s + _GRACE_S)
        return free > soon

    def _forget_missed(self, now_s: float) -> None:
        while self._promised_s and self._promised_s[0] < now_s - _GRACE_S:
            self._promised_s.popleft()

    def _first(self, count: int) -> list[float]:
        return [self._promised_s[index] for index in range(min(count, len(self._promised_s)))]

    @property
    def _gap_s(self) -> float:
        return SLACK * self._place_seconds / self._ends / max(1, self._busy)

    @property
    def _busy(self) -> int:
        return self.held if self._servers is None else min(self.held, self._servers)

    def _pass_time(self, now_s: float) -> None:
        past_s = 0.0 if self._changed_s is None else now_s - self._changed_s
        self._changed_s = now_s
        # Both alike, so that a quiet hour changes nothing.
        kept = math.exp(-past_s / _MEMORY_S) if self._busy else 1.0
        self._place_seconds = self._place_seconds * kept + self._busy * past_s
        self._ends = max(self._ends * kept, 1e-9)
