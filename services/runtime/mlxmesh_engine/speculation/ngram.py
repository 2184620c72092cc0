"""Finds what followed the last tokens earlier in the same sequence. Pure."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MIN_MATCH = 2
MAX_MATCH = 4
"""Longer matches count as this long: they are hardly more reliable."""
_MAX_CANDIDATES = 16
_MAX_TOKENS = 2**16
_BUCKET_BITS = 12
_MAX_BUCKET_BITS = 16
_FACTORS = (0x9E3779B1, 0x85EBCA77)


@dataclass(frozen=True, slots=True)
class Match:
    """Earlier tokens that may follow."""

    length: int
    """How many of the last tokens stood before them too: 2 to MAX_MATCH."""
    tokens: tuple[int, ...]


class NgramIndex:
    """The tokens of one sequence, and where each pair of tokens stands.

    Holds the last 65,536 tokens at most, with 16 bytes for each. Source: the hash chains of
    deflate (RFC 1951, section 4).
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: array[int] = array("i")
        self._previous: array[int] = array("i")
        self._heads: array[int] = array("i")
        self._bits = _BUCKET_BITS
        self._rebuild(np.asarray(tokens, np.int32))

    def __len__(self) -> int:
        """How many tokens it holds."""
        return len(self._tokens)

    @property
    def nbytes(self) -> int:
        parts = (self._tokens, self._previous, self._heads)
        return sum(part.itemsize * len(part) for part in parts)

    def append(self, token: int) -> None:
        tokens = self._tokens
        if len(tokens) >= _MAX_TOKENS:
            self._rebuild(np.frombuffer(tokens, np.int32)[-_MAX_TOKENS // 2 :].copy())
            tokens = self._tokens
        if tokens:
            bucket = _bucket(tokens[-1], token, self._bits)
            self._previous.append(self._heads[bucket])
            self._heads[bucket] = len(tokens)
        else:
            self._previous.append(-1)
        tokens.append(token)

    def match(self, most: int) -> Match | None:
        """Up to `most` tokens that followed the longest, then latest, equal end; None if none is.

        A match that reaches the end of the sequence is repeated: its tokens are a period.
        """
        tokens = self._tokens
        end = len(tokens) - 1
        if end < _MIN_MATCH or most <= 0:
            return None
        last, before = tokens[end], tokens[end - 1]
        at = self._previous[end]
        best, best_at = 0, -1
        for _ in range(_MAX_CANDIDATES):
            if at < 1:
                break
            if tokens[at] == last and tokens[at - 1] == before:
                length = _MIN_MATCH
                while (
                    length < MAX_MATCH
                    and at >= length
                    and tokens[at - length] == tokens[end - length]
                ):
                    length += 1
                if length > best:
                    best, best_at = length, at
                    if length == MAX_MATCH:
                        break
            at = self._previous[at]
        if not best:
            return None
        found = tokens[best_at + 1 : best_at + 1 + most].tolist()
        period = end - best_at
        while len(found) < most:
            found.append(found[len(found) - period])
        return Match(best, tuple(found))

    def _rebuild(self, tokens: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        """Indexes these tokens, the last ones of too many."""
        tokens = tokens[-_MAX_TOKENS:]
        self._bits = min(max(_BUCKET_BITS, len(tokens).bit_length()), _MAX_BUCKET_BITS)
        heads = np.full(1 << self._bits, -1, np.int32)
        previous = np.full(len(tokens), -1, np.int32)
        if len(tokens) > 1:
            places = np.arange(1, len(tokens), dtype=np.int32)
            wide = tokens.astype(np.uint64)
            buckets = _buckets(wide[:-1], wide[1:], self._bits)
            order = np.argsort(buckets, kind="stable")
            own, same = places[order], buckets[order]
            again = np.flatnonzero(same[1:] == same[:-1])
            previous[own[again + 1]] = own[again]
            lasts = np.flatnonzero(np.append(same[1:] != same[:-1], True))
            heads[same[lasts]] = own[lasts]
        self._tokens = array("i", tokens.tobytes())
        self._previous = array("i", previous.tobytes())
        self._heads = array("i", heads.tobytes())


def _bucket(before: int, token: int, bits: int) -> int:
    mixed = (before * _FACTORS[0] ^ token * _FACTORS[1]) & 0xFFFFFFFF
    return mixed >> (32 - bits)


def _buckets(
    before: np.ndarray[tuple[int], np.dtype[np.uint64]],
    tokens: np.ndarray[tuple[int], np.dtype[np.uint64]],
    bits: int,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """As `_bucket`, for many pairs."""
    mixed = (before * np.uint64(_FACTORS[0]) ^ tokens * np.uint64(_FACTORS[1])) & np.uint64(
        0xFFFFFFFF
    )
    return (mixed >> np.uint64(32 - bits)).astype(np.int64)
