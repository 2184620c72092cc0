"""Something that is read again and again while anybody watches it, once for all watchers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlxmesh_shared.errors import Internal, MeshError

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Watcher(Generic[T]):
    interval_s: float
    on_value: Callable[[T], None]
    on_failure: Callable[[MeshError], None]


class SharedPoll(Generic[T]):
    """Reads at the shortest interval of its watchers; without watchers nothing runs."""

    def __init__(self, read: Callable[[], Awaitable[T]], *, repeats: bool = True) -> None:
        """repeats: whether a new watcher gets the last value at once."""
        self._read = read
        self._repeats = repeats
        self._watchers: set[_Watcher[T]] = set()
        self._last: list[T] = []
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether it has watchers."""
        return self._task is not None

    @contextmanager
    def watched(
        self,
        interval_s: float,
        on_value: Callable[[T], None],
        on_failure: Callable[[MeshError], None],
    ) -> Generator[None]:
        """Calls on_value with each value until the body ends; neither callback may wait."""
        watcher = _Watcher(interval_s, on_value, on_failure)
        self._watchers.add(watcher)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="live-poll")
        elif self._repeats:
            for value in self._last:
                on_value(value)
        try:
            yield
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._task.cancel()
                self._task = None
                self._last.clear()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                value = await self._read()
            except Exception as error:  # noqa: BLE001 - its watchers wait for the next read
                self._failed(error)
            else:
                self._last[:] = [value]
                for watcher in tuple(self._watchers):
                    watcher.on_value(value)
            await self._pause()

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, MeshError):
            _log.exception("live state could not be read")
            error = Internal("the state could not be read; see the log of the gateway")
        for watcher in tuple(self._watchers):
            watcher.on_failure(error)

    async def _pause(self) -> None:
        """Until the next read is due; a new watcher may shorten it."""
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        while (left_s := begin_s + self._interval_s() - loop.time()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
            except TimeoutError:
                return

    def _interval_s(self) -> float:
        return min((one.interval_s for one in self._watchers), default=1.0)
