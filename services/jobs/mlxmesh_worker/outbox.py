"""News of attempts that wait to be sent, and to be confirmed."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlxmesh_worker.work import AttemptKey

MAX_UPDATES = 256
MAX_MESSAGE_BYTES = 4 * 2**20
_MAX_KEPT_UPDATES = 2048
_MAX_KEPT_BYTES = 16 * 2**20


@dataclass(slots=True)
class _Kept:
    key: AttemptKey
    update: Any
    size_bytes: int
    confirmed: asyncio.Future[None] | None
    number: int = 0
    """Of the message that it was sent with."""


class Outbox:
    """Updates in their order. Each is kept until it is confirmed, and sent again on a new stream.

    Its bounds are the back pressure: a worker whose news are not stored reads no more of its work.
    """

    def __init__(
        self, *, max_updates: int = _MAX_KEPT_UPDATES, max_bytes: int = _MAX_KEPT_BYTES
    ) -> None:
        self._max_updates = max_updates
        self._max_bytes = max_bytes
        self._waiting: deque[_Kept] = deque()
        self._sent: deque[_Kept] = deque()
        self._counts: Counter[AttemptKey] = Counter()
        self._bytes = 0
        self._changed = asyncio.Event()
        self.news = asyncio.Event()
        """Set when something waits to be sent; the sender clears it."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def attempts(self) -> frozenset[AttemptKey]:
        """Those with unconfirmed news."""
        return frozenset(self._counts)

    @property
    def full(self) -> bool:
        return len(self) >= self._max_updates or self._bytes >= self._max_bytes

    async def put(self, key: AttemptKey, update: Any, size_bytes: int) -> None:
        """Keeps an update; waits while there is no room."""
        while self.full:
            await self._wait_for_change()
        self._add(_Kept(key, update, size_bytes, None))

    async def put_and_wait(self, key: AttemptKey, update: Any, size_bytes: int) -> None:
        """Returns once the update is confirmed; CancelledError if its attempt is dropped before."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(_Kept(key, update, size_bytes, confirmed))
        await confirmed

    def put_now(self, key: AttemptKey, update: Any, size_bytes: int) -> None:
        """Keeps an update that must not wait, such as the end of an attempt."""
        self._add(_Kept(key, update, size_bytes, None))

    async def wait_empty(self) -> None:
        """Returns once everything is confirmed."""
        while len(self):
            await self._wait_for_change()

    def take(self, number: int) -> list[Any]:
        """The next updates, for the message with this number."""
        updates: list[Any] = []
        size_bytes = 0
        while self._waiting and len(updates) < MAX_UPDATES:
            size_bytes += self._waiting[0].size_bytes
            if updates and size_bytes > MAX_MESSAGE_BYTES:
                break
            kept = self._waiting.popleft()
            kept.number = number
            self._sent.append(kept)
            updates.append(kept.update)
        if self._waiting:
            self.news.set()
        return updates

    def confirm(self, number: int) -> None:
        """Drops what was sent with messages up to this number."""
        while self._sent and self._sent[0].number <= number:
            kept = self._sent.popleft()
            self._forget(kept)
            if kept.confirmed is not None and not kept.confirmed.done():
                kept.confirmed.set_result(None)
        self._wake()

    def rewind(self) -> None:
        """Everything unconfirmed waits again: a new stream begins."""
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        if self._waiting:
            self.news.set()

    def drop(self, keys: Iterable[AttemptKey]) -> None:
        """Forgets the news of attempts."""
        dropped = {key for key in keys if key in self._counts}
        if not dropped:
            return
        for queue in (self._waiting, self._sent):
            for kept in queue:
                if kept.key in dropped:
                    self._forget(kept)
                    if kept.confirmed is not None:
                        kept.confirmed.cancel()
            left = [kept for kept in queue if kept.key not in dropped]
            queue.clear()
            queue.extend(left)
        self._wake()

    def _add(self, kept: _Kept) -> None:
        self._waiting.append(kept)
        self._counts[kept.key] += 1
        self._bytes += kept.size_bytes
        self.news.set()

    def _forget(self, kept: _Kept) -> None:
        self._bytes -= kept.size_bytes
        self._counts[kept.key] -= 1
        if not self._counts[kept.key]:
            del self._counts[kept.key]

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
