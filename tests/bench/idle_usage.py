"""What idle processes cost: CPU time, and on Linux wake-ups, read at two moments."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

COUNTS_WAKEUPS = sys.platform == "linux"
"""Elsewhere the kernel tells no count of voluntary context switches by thread."""
PROC = Path("/proc")
_SWITCHES = "voluntary_ctxt_switches:"


@dataclass(frozen=True)
class Usage:
    """What one process has used since its start, or between two readings."""

    cpu_s: float
    wakeups: Mapping[str, int] = field(default_factory=dict[str, int])
    """Voluntary context switches by the name of the thread."""

    @property
    def total_wakeups(self) -> int:
        """Those of all threads."""
        return sum(self.wakeups.values())

    def since(self, before: Usage) -> Usage:
        """The difference to an earlier reading."""
        wakeups = Counter(self.wakeups)
        wakeups.subtract(before.wakeups)
        return Usage(self.cpu_s - before.cpu_s, {name: n for name, n in wakeups.items() if n > 0})


@dataclass(frozen=True)
class Reading:
    """The usage of several processes at one moment."""

    at_s: float
    by_pid: Mapping[int, Usage]


def read(processes: Iterable[psutil.Process]) -> Reading:
    """Processes that have ended are left out."""
    found: dict[int, Usage] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = Usage(times.user + times.system, thread_wakeups(process.pid))
    return Reading(time.monotonic(), found)


def thread_wakeups(pid: int, proc: Path = PROC) -> dict[str, int]:
    """Voluntary context switches of each living thread, added up by its name; empty off Linux."""
    wakeups: Counter[str] = Counter()
    if COUNTS_WAKEUPS:
        for task in (proc / str(pid) / "task").glob("*"):
            with contextlib.suppress(OSError):  # the thread has ended
                status = (task / "status").read_text()
                wakeups[(task / "comm").read_text().strip()] += voluntary_switches(status)
    return dict(wakeups)


def voluntary_switches(status: str) -> int:
    """The figure in the text of /proc/PID/status."""
    [line] = (line for line in status.splitlines() if line.startswith(_SWITCHES))
    return int(line.removeprefix(_SWITCHES))
