"""How many second tries a process may make, so that retries never multiply an overload. Pure.

Source: gRFC A6 (retry throttling); the floor is that of Finagle's retry budget.
"""

import time
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
