"""The time of day, as everything in the access database states it."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""The milliseconds since 1970, in UTC."""

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


def system_clock() -> int:
    """The clock of this host."""
    return time.time_ns() // 1_000_000
