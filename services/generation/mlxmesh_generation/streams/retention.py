"""Which generations are retained, and which are evicted first. Pure except for its clock."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mlxmesh_generation.domain.request import GenerationKey


@dataclass(frozen=True)
class RetentionLimits:
    """Limits on all retained generations together."""

    max_bytes: int = 64 * 2**20
    max_generations: int = 4096
    after_end_s: float = 300.0


class Messages(Protocol):
    """The retained messages of one generation."""

    def drop_oldest(self) -> int:
        """Drops one; returns its size in bytes, 0 when there is none."""
        ...


@dataclass
class _Kept:
    caller: str
    messages: Messages
    size_bytes: int = 0


class Retention:
    """Counts retained messages, and calls `forget` for each generation that it evicts.

    Beyond the limit, it evicts from the caller with the most retained bytes: first the generation
    that ended first. When all generations of that caller still run, it drops their oldest messages,
    beginning with the oldest generation.
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
        """When each ended generation ended, in that order."""
        self._ended_of: dict[str, dict[GenerationKey, None]] = {}
        """The keys of the same generations by caller."""
        self._bytes_of: Counter[str] = Counter()
        self.total_bytes = 0

    def add(self, key: GenerationKey, messages: Messages, caller: str = "") -> None:
        self._kept[key] = _Kept(caller, messages)
        self.expire()
        while len(self._kept) > self._limits.max_generations and self._ended_of:
            most = max(self._ended_of, key=lambda name: len(self._ended_of[name]))
            self._evict_first(most)

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
        """Stops retaining a generation; a no-op for one that is not retained."""
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
        """Evicts generations that ended too long ago."""
        oldest_s = self._clock() - self._limits.after_end_s
        for key in list(self._expired(oldest_s)):
            self._evict(key)

    def _expired(self, oldest_s: float) -> Iterator[GenerationKey]:
        for key, ended_s in self._ended_s.items():
            if ended_s > oldest_s:
                return
            yield key

    def _make_room(self) -> None:
        while self._too_large:
            [(most, _)] = self._bytes_of.most_common(1)
            if most in self._ended_of:
                self._evict_first(most)
            elif not self._shorten(most):
                return

    def _shorten(self, caller: str) -> bool:
        """Drops the caller's oldest messages until there is room; False when there were none."""
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

    def _evict_first(self, caller: str) -> None:
        self._evict(next(iter(self._ended_of[caller])))

    def _evict(self, key: GenerationKey) -> None:
        self.remove(key)
        self._forget(key)
