"""Limits on retries: a budget for a process's own, and delays for callers that it refuses. Pure."""

import math
import time
from collections import deque
from collections.abc import Callable

PER_CALL = 0.2
FLOOR_PER_S = 10.0
# Ten seconds of the floor: an instance that dies fails all of its calls at the same moment.
MAX_TOKENS = 100.0


class RetryBudget:
    """A bucket of tokens, so that retries never multiply an overload.

    Calls and time add tokens, each retry spends one.
    Source: gRFC A6 (retry throttling); the floor is that of Finagle's retry budget.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._tokens = MAX_TOKENS
        self._filled_s = now_s()

    def on_call(self) -> None:
        """Counts the first attempt of a call."""
        self._fill(PER_CALL)

    def try_spend(self) -> bool:
        """Whether a retry is allowed now; if so, its token is spent."""
        now_s = self._now_s()
        self._fill((now_s - self._filled_s) * FLOOR_PER_S)
        self._filled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _fill(self, tokens: float) -> None:
        self._tokens = min(MAX_TOKENS, self._tokens + tokens)


MIN_DELAY_S = 0.1
MAX_DELAY_S = 60.0
# Before any release was seen: the assumed holding time of a slot, and its weight in releases.
_INITIAL_HOLD_S = 5.0
_INITIAL_WEIGHT = 0.2
# The time constant of the averages: older observations weigh less than 1/e.
_MEMORY_S = 30.0
# Releases come in bursts: a delay above the mean finds a free slot more often.
SLACK = 1.25
# How late a retry may come and still find its slot reserved.
_GRACE_S = 0.25
_MAX_SCHEDULED = 4096


class RetryDelayEstimator:
    """Schedules the retries of refused callers at the rate at which slots become free.

    The mean holding time is (slot-seconds) / (slots released), both decaying over time. The mean
    interval between two releases is that, divided by the slots in use.
    Source: Little, "A Proof for the Queuing Formula L = λW" (1961).
    """

    def __init__(self, *, servers: int | None = None) -> None:
        """`servers`: how many of the acquired slots are processed concurrently; the rest queue."""
        self._servers = servers
        self._slot_seconds = _INITIAL_HOLD_S * _INITIAL_WEIGHT
        self._releases = _INITIAL_WEIGHT
        self._changed_s: float | None = None
        self._scheduled_s: deque[float] = deque()
        """When the retries of refused callers are due, in order."""
        self.held = 0

    def acquire(self, now_s: float) -> None:
        """A slot is in use from now on."""
        self._advance(now_s)
        self.held += 1

    def release(self, now_s: float, *, counts: bool = True) -> None:
        """A slot is free; `counts` is false when its holding time is not typical (a crash)."""
        self._advance(now_s)
        self.held -= 1
        self._releases += counts

    def schedule_retry(self, now_s: float) -> float:
        """The delay in seconds, MIN_DELAY_S to MAX_DELAY_S, of the next refused caller's retry."""
        self._advance(now_s)
        self._drop_missed(now_s)
        last_s = self._scheduled_s[-1] if self._scheduled_s else now_s
        due_s = max(last_s, now_s + MIN_DELAY_S - self._interval_s) + self._interval_s
        if due_s - now_s > MAX_DELAY_S:
            return MAX_DELAY_S
        if len(self._scheduled_s) < _MAX_SCHEDULED:
            self._scheduled_s.append(due_s)
        return due_s - now_s

    def may_acquire(self, free: int, now_s: float) -> bool:
        """Whether a caller that asks now may have one of the `free` slots.

        If a retry is due, the caller counts as that retry. Otherwise a slot stays reserved for each
        retry that is due within moments.
        """
        self._drop_missed(now_s)
        if free < 1:
            return False
        if self._scheduled_s and self._scheduled_s[0] <= now_s:
            self._scheduled_s.popleft()
            return True
        reserved = sum(1 for due_s in self._first(free) if due_s <= now_s + _GRACE_S)
        return free > reserved

    def _drop_missed(self, now_s: float) -> None:
        while self._scheduled_s and self._scheduled_s[0] < now_s - _GRACE_S:
            self._scheduled_s.popleft()

    def _first(self, count: int) -> list[float]:
        return [self._scheduled_s[index] for index in range(min(count, len(self._scheduled_s)))]

    @property
    def _interval_s(self) -> float:
        return SLACK * self._slot_seconds / self._releases / max(1, self._busy)

    @property
    def _busy(self) -> int:
        return self.held if self._servers is None else min(self.held, self._servers)

    def _advance(self, now_s: float) -> None:
        passed_s = 0.0 if self._changed_s is None else now_s - self._changed_s
        self._changed_s = now_s
        # Both decay alike, and only while slots are in use: idle time changes nothing.
        decay = math.exp(-passed_s / _MEMORY_S) if self._busy else 1.0
        self._slot_seconds = self._slot_seconds * decay + self._busy * passed_s
        self._releases = max(self._releases * decay, 1e-9)
