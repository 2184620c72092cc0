"""When a process started, as a number that stays the same when the wall clock is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import psutil


class Started(Protocol):
    """A process, as psutil shows it."""

    def create_time(self) -> float:
        """Its start, in seconds since the epoch."""
        ...


def start_of(
    process: Started,
    boot_time: Callable[[], float] = psutil.boot_time,
    *,
    linux: bool = psutil.LINUX,
) -> float:
    """Seconds since the boot (Linux) or since the epoch.

    Linux counts from the boot, and psutil adds the time of the boot, which moves when the clock is
    set. Elsewhere the kernel keeps the time of day as it was.
    """
    return process.create_time() - boot_time() if linux else process.create_time()
