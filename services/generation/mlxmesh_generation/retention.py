"""Which generations' messages are kept, and which are given up first. Pure but for its clock."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class RetentionLimits:
    """How much is kept of all generations together."""

    max_bytes: int = 64 * 2**20
    max_generations: int = 4096
    after_end_s: float = 300.0


class Messages(Protocol):
    """The kept messages of one generation."""

    def drop_oldest(self) -> int:
        """Gives up one; returns its size in bytes, 0 when there is none."""
        ...


class Retention:
    """Told what is kept; says through `forget` which generation has to go.

    When there is too much, the one that ended first goes first, whole. When only running ones are
    left, their oldest messages go, of the oldest generation first.
    """

    def __init__(
        self,
        limits: RetentionLimits,
        *,
        forget: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._forget = forget
        self._clock = clock
        self._messages: dict[str, Messages] = {}
        self._bytes: dict[str, int] = {}
        self._ended_s: dict[str, float] = {}
        """Those that have ended, the first first."""
        self.total_bytes = 0

    def add(self, request_id: str, messages: Messages) -> None:
        self._messages[request_id] = messages
        self._bytes[request_id] = 0
        self.expire()
        while len(self._messages) > self._limits.max_generations and self._ended_s:
            self._give_up(next(iter(self._ended_s)))

    def grew(self, request_id: str, size_bytes: int) -> None:
        if request_id in self._bytes:
            self._bytes[request_id] += size_bytes
            self.total_bytes += size_bytes
            self._make_room()

    def note_end(self, request_id: str) -> None:
        if request_id in self._messages:
            self._ended_s[request_id] = self._clock()

    def remove(self, request_id: str) -> None:
        """It is kept no longer; nothing happens when it was not."""
        self._messages.pop(request_id, None)
        self._ended_s.pop(request_id, None)
        self.total_bytes -= self._bytes.pop(request_id, 0)

    def expire(self) -> None:
        """Gives up what ended too long ago."""
        oldest_s = self._clock() - self._limits.after_end_s
        for request_id in list(self._expired(oldest_s)):
            self._give_up(request_id)

    def _expired(self, oldest_s: float) -> Iterator[str]:
        for request_id, ended_s in self._ended_s.items():
            if ended_s > oldest_s:
                return
            yield request_id

    def _make_room(self) -> None:
        while self._too_large and self._ended_s:
            self._give_up(next(iter(self._ended_s)))
        if self._too_large:
            for request_id, messages in self._messages.items():
                self._shorten(request_id, messages)

    def _shorten(self, request_id: str, messages: Messages) -> None:
        while self._too_large and (size_bytes := messages.drop_oldest()):
            self._bytes[request_id] -= size_bytes
            self.total_bytes -= size_bytes

    @property
    def _too_large(self) -> bool:
        return self.total_bytes > self._limits.max_bytes

    def _give_up(self, request_id: str) -> None:
        self.remove(request_id)
        self._forget(request_id)
