"""Keys and values in host memory: each sequence has its own arrays, so no row is ever padded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlxmesh_engine.cpu.products import Floats

# Small, since large arrays are cleared when they are allocated, even the part that stays unused.
_MIN_STEP_TOKENS = 64


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """Keys and values of consecutive tokens, each (layers, kv heads, tokens, dims)."""

    keys: Floats
    values: Floats

    @property
    def tokens(self) -> int:
        return self.keys.shape[2]

    def truncated(self, tokens: int) -> "CachedTokens":
        return CachedTokens(self.keys[:, :, :tokens], self.values[:, :, :tokens])

    def concatenated(self, later: "Sequence[CachedTokens]") -> "CachedTokens":
        if not later:
            return self
        parts = [self, *later]
        return CachedTokens(
            np.concatenate([part.keys for part in parts], axis=2),
            np.concatenate([part.values for part in parts], axis=2),
        )


class RowKeysValues:
    """The keys and values of one sequence; grows as tokens are appended."""

    def __init__(self, layers: int, kv_heads: int, head_dims: int) -> None:
        self.keys = np.empty((layers, kv_heads, 0, head_dims), np.float32)
        self.values = self.keys
        self.tokens = 0

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def load(self, prefix: CachedTokens) -> None:
        """Copies a cached prefix into the empty row."""
        self.reserve(prefix.tokens)
        self.keys[:, :, : prefix.tokens] = prefix.keys
        self.values[:, :, : prefix.tokens] = prefix.values
        self.tokens = prefix.tokens

    def reserve(self, count: int) -> None:
        """Makes room for `count` more tokens."""
        needed = self.tokens + count
        if needed > self.keys.shape[2]:
            # In steps that grow with the row: the copies stay a small part of the work.
            step = max(_MIN_STEP_TOKENS, self.tokens // 4)
            capacity = -(-needed // step) * step
            self.keys = self._grown(self.keys, capacity)
            self.values = self._grown(self.values, capacity)

    def copy(self, start: int, stop: int) -> CachedTokens:
        return CachedTokens(
            self.keys[:, :, start:stop].copy(), self.values[:, :, start:stop].copy()
        )

    def duplicate(self) -> "RowKeysValues":
        layers, kv_heads, _, head_dims = self.keys.shape
        row = RowKeysValues(layers, kv_heads, head_dims)
        row.load(CachedTokens(self.keys[:, :, : self.tokens], self.values[:, :, : self.tokens]))
        return row

    def _grown(self, array: Floats, capacity: int) -> Floats:
        layers, kv_heads, _, head_dims = array.shape
        grown = np.empty((layers, kv_heads, capacity, head_dims), np.float32)
        grown[:, :, : self.tokens] = array[:, :, : self.tokens]
        return grown


class HostCache:
    """The rows of a batch; implements `RowsCache`."""

    divisible = True

    def __init__(self, sequences: list[RowKeysValues], token_bytes: int) -> None:
        self.sequences = sequences
        self.token_bytes = token_bytes

    @property
    def rows(self) -> int:
        return len(self.sequences)

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self.sequences)

    def copy_row(self, row: int, start: int, stop: int) -> CachedTokens:
        """Copies tokens start to stop of a row, counted from its end (0)."""
        source = self.sequences[row]
        return source.copy(source.tokens + start, source.tokens + stop)

    def copy_rows(self, rows: Sequence[int]) -> "HostCache":
        """A cache with a copy of each of these rows, some of them repeated."""
        return HostCache([self.sequences[row].duplicate() for row in rows], self.token_bytes)

    def extend(self, other: "HostCache") -> None:
        """Appends the other's rows; the other must not be used again."""
        self.sequences += other.sequences

    def filter(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order."""
        self.sequences = [self.sequences[row] for row in rows]
