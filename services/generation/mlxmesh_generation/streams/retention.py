"""Which generations' messages are kept, and which are given up first. Pure but for its clock."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mlxmesh_generation.domain.request import GenerationKey


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


@dataclass
class _Kept:
    caller: str
    messages: Messages
    size_bytes: int = 0


class Retention:
    """Told what is kept; says through `forget` which generation has to go.

    When there is too much, the caller that has most kept gives room: the one of its generations
    that ended first goes first, whole. When only running ones of that caller are left, their oldest
    messages go, of the oldest generation first.
    """

    def __init__(
        self,
        limits: RetentionLimits,
        *,
        forget: Callable[[GenerationKey], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._forget = forget
        self._clock = clock
        self._kept: dict[GenerationKey, _Kept] = {}
        self._ended_s: dict[GenerationKey, float] = {}
        """Those that have ended, the first first."""
        self._ended_of: dict[str, dict[GenerationKey, None]] = {}
        """The same by caller."""
        self._bytes_of: Counter[str] = Counter()
        self.total_bytes = 0

    def add(self, key: GenerationKey, messages: Messages, caller: str = "") -> None:
        self._kept[key] = _Kept(caller, messages)
        self.expire()
        while len(self._kept) > self._limits.max_generations and self._ended_of:
            most = max(self._ended_of, key=lambda name: len(self._ended_of[name]))
            self._give_up_first(most)

    def grew(self, key: GenerationKey, size_bytes: int) -> None:
        kept = self._kept.get(key)
        if kept is not None:
            self._count(kept, size_bytes)
            self._make_room()

    def note_end(self, key: GenerationKey) -> None:
        kept = self._kept.get(key)
        if kept is not None:
            self._ended_s[key] = self._clock()
            self._ended_of.setdefault(kept.caller, {})[key] = None

    def remove(self, key: GenerationKey) -> None:
        """It is kept no longer; nothing happens when it was not."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        self._count(kept, -kept.size_bytes)
        if self._ended_s.pop(key, None) is not None:
            ended = self._ended_of[kept.caller]
            del ended[key]
            if not ended:
                del self._ended_of[kept.caller]

    def expire(self) -> None:
        """Gives up what ended too long ago."""
        oldest_s = self._clock() - self._limits.after_end_s
        for key in list(self._expired(oldest_s)):
            self._give_up(key)

    def _expired(self, oldest_s: float) -> Iterator[GenerationKey]:
        for key, ended_s in self._ended_s.items():
            if ended_s > oldest_s:
                return
            yield key

    def _make_room(self) -> None:
        while self._too_large:
            [(most, _)] = self._bytes_of.most_common(1)
            if most in self._ended_of:
                self._give_up_first(most)
            elif not self._shorten(most):
                return

    def _shorten(self, caller: str) -> bool:
        """Drops the caller's oldest messages until there is room; whether there were any."""
        before = self.total_bytes
        for kept in self._kept.values():
            while (
                kept.caller == caller
                and self._too_large
                and (size_bytes := kept.messages.drop_oldest())
            ):
                self._count(kept, -size_bytes)
        return self.total_bytes < before

    def _count(self, kept: _Kept, by_bytes: int) -> None:
        kept.size_bytes += by_bytes
        self.total_bytes += by_bytes
        self._bytes_of[kept.caller] += by_bytes
        if not self._bytes_of[kept.caller]:
            del self._bytes_of[kept.caller]

    @property
    def _too_large(self) -> bool:
        return self.total_bytes > self._limits.max_bytes

    def _give_up_first(self, caller: str) -> None:
        self._give_up(next(iter(self._ended_of[caller])))

    def _give_up(self, key: GenerationKey) -> None:
        self.remove(key)
        self._forget(key)
