"""The time of day, as the jobs database states it."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""The milliseconds since 1970, in UTC."""
Monotonic = Callable[[], float]
"""Seconds that never go backwards."""


def system_clock() -> int:
    """The clock of this host."""
    return time.time_ns() // 1_000_000
