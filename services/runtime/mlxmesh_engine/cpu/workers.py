"""Threads that share a product: numpy releases the interpreter lock while it multiplies."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil


class Workers:
    """Splits a range among threads; the calling thread is one of them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "product") if threads > 1 else None

    def split(self, count: int, run: Callable[[int, int], None]) -> None:
        """Calls `run(start, stop)` for parts of range(count), and waits for all of them."""
        if self._pool is None:
            run(0, count)
            return
        size = -(-count // self.threads)
        others = [
            self._pool.submit(run, start, min(start + size, count))
            for start in range(size, count, size)
        ]
        run(0, min(size, count))
        for other in others:
            other.result()

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()


ALONE = Workers(1)


def usable_cores() -> int:
    """The cores that this process may use. Two hardware threads of a core count as one."""
    logical = os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    if sys.platform == "linux":
        allowed = len(os.sched_getaffinity(0))
        return max(1, min(physical, allowed * physical // logical))
    return physical
