"""What rank 0 tells the other ranks to do, in order. Pure.

Caches and stored rows have numbers, which rank 0 gives. Nothing here depends on a clock, on free
memory or on a random number: the ranks cannot come apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

Rows = tuple[tuple[int, ...], ...]
"""The tokens of each row."""


@dataclass(frozen=True, slots=True)
class NewCache:
    number: int
    rows: tuple[int, ...]
    """The stored row that each row begins with; 0 for an empty row."""


@dataclass(frozen=True, slots=True)
class PrefillRows:
    cache: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Rank 0 gives the tokens on the ring: it need not wait for them."""

    cache: int


@dataclass(frozen=True, slots=True)
class ScoreRows:
    cache: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class ExtendCache:
    cache: int
    other: int


@dataclass(frozen=True, slots=True)
class FilterCache:
    cache: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CopyRows:
    cache: int
    rows: tuple[int, ...]
    number: int


@dataclass(frozen=True, slots=True)
class StoreTokens:
    cache: int
    row: int
    start: int
    stop: int
    number: int


@dataclass(frozen=True, slots=True)
class StoreState:
    cache: int
    row: int
    number: int


@dataclass(frozen=True, slots=True)
class TruncateRow:
    row: int
    tokens: int
    number: int


@dataclass(frozen=True, slots=True)
class ConcatenateRows:
    rows: tuple[int, ...]
    number: int


@dataclass(frozen=True, slots=True)
class Free:
    numbers: tuple[int, ...]


Operation = (
    NewCache
    | PrefillRows
    | DecodeRows
    | ScoreRows
    | ExtendCache
    | FilterCache
    | CopyRows
    | StoreTokens
    | StoreState
    | TruncateRow
    | ConcatenateRows
    | Free
)

Send = Callable[[Operation], None]
"""Passes an operation on to all other ranks. Called on the MLX thread; never waits."""
