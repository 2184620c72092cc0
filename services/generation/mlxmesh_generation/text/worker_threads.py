"""Threads for blocking work, shared fairly among callers."""

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
MIN_THREADS = 2
MAX_THREADS = 4


def default_threads() -> int:
    """As many as this host can use; at least two, so that no caller can occupy all of them."""
    return min(MAX_THREADS, max(MIN_THREADS, os.cpu_count() or MIN_THREADS))


class FairThreadPool:
    """A few threads, assigned to callers round-robin; no caller can occupy all of them.

    Work that is cancelled before it runs is dropped. Running work cannot be stopped: it occupies
    its thread until it returns.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = max(MIN_THREADS, threads or default_threads())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="text")
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By caller, in round-robin order."""

    async def run(self, caller: str, work: Callable[..., T], *args: Any) -> T:
        """Runs `work` once the caller has a thread; returns or raises what it does."""
        await self._acquire(caller)
        loop = asyncio.get_running_loop()
        try:
            running = self._pool.submit(work, *args)
        except RuntimeError:
            self._release(caller)
            raise
        running.add_done_callback(lambda _: _call_soon(loop, partial(self._release, caller)))
        return await asyncio.wrap_future(running)

    def close(self) -> None:
        """Starts no more work; running work continues."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def _acquire(self, caller: str) -> None:
        if self._may_run(caller):
            self._running[caller] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(caller)
            else:
                self._forget(caller, turn)
            raise

    def _may_run(self, caller: str) -> bool:
        free = self._running.total() < self._threads
        return free and self._running[caller] < self._threads - 1

    def _release(self, caller: str) -> None:
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        if caller in self._waiting:  # to the end of the round
            self._waiting[caller] = self._waiting.pop(caller)
        while (following := self._next()) is not None:
            self._begin(following)

    def _next(self) -> str | None:
        return next(filter(self._may_run, self._waiting), None)

    def _begin(self, caller: str) -> None:
        turns = self._waiting.pop(caller)
        turns.popleft().set_result(None)
        self._running[caller] += 1
        if turns:
            self._waiting[caller] = turns

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting[caller]
        turns.remove(turn)
        if not turns:
            del self._waiting[caller]


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    # The thread may outlive the loop.
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
