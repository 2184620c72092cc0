"""Figures of this process and its host; what this platform does not tell is 0."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFigures:
    """What one process uses."""

    pid: int
    resident_bytes: int
    cpu_s: float
    threads: int
    open_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFigures:
    """The machine."""

    name: str
    platform: str
    cores: int
    load: float
    memory_total_bytes: int
    memory_available_bytes: int
    swap_used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFigures:
    """The file system of a directory."""

    total_bytes: int
    free_bytes: int


def process_figures() -> ProcessFigures:
    """Of this process."""
    times = os.times()
    return ProcessFigures(
        pid=os.getpid(),
        resident_bytes=_resident_bytes(),
        cpu_s=times.user + times.system,
        threads=_threads(),
        open_files=_open_files(),
    )


def host_figures() -> HostFigures:
    """Of this host."""
    load = 0.0
    with suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
    total, available, swap = _memory()
    return HostFigures(
        name=socket.gethostname(),
        platform=platform.platform(terse=True),
        cores=os.cpu_count() or 0,
        load=load,
        memory_total_bytes=total,
        memory_available_bytes=available,
        swap_used_bytes=swap,
    )


def disk_figures(path: Path) -> DiskFigures:
    """Of the file system of a directory; zeros for one that cannot be read."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return DiskFigures(total_bytes=0, free_bytes=0)
    return DiskFigures(total_bytes=usage.total, free_bytes=usage.free)


def _psutil() -> Any:
    """psutil, which only an installation with the command or a runtime has; else None."""
    try:
        import psutil
    except ImportError:
        return None
    return psutil


def _resident_bytes() -> int:
    if sys.platform == "linux":
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
    psutil = _psutil()
    return int(psutil.Process().memory_info().rss) if psutil is not None else 0


def _threads() -> int:
    with suppress(OSError):
        return len(list(Path("/proc/self/task").iterdir()))
    psutil = _psutil()
    return int(psutil.Process().num_threads()) if psutil is not None else threading.active_count()


def _open_files() -> int:
    # macOS has /dev/fd, which lists those of the process that reads it.
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return max(0, len(list(Path(folder).iterdir())) - 1)
    return 0


def _memory() -> tuple[int, int, int]:
    """Total, available, and used swap, in bytes."""
    psutil = _psutil()
    if psutil is not None:
        with suppress(OSError, RuntimeError):
            memory = psutil.virtual_memory()
            return memory.total, memory.available, psutil.swap_memory().used
    return _memory_of_linux() or (_memory_of_posix(), 0, 0)


def _memory_of_linux() -> tuple[int, int, int] | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
        swap = kib["SwapTotal"] - kib["SwapFree"]
        return kib["MemTotal"] * _KIB, kib["MemAvailable"] * _KIB, swap * _KIB
    except (OSError, ValueError, IndexError, KeyError):
        return None


def _memory_of_posix() -> int:
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0
