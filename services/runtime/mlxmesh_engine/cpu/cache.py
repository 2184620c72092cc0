"""Keys and values in host memory: each sequence has its own arrays, so no row is ever padded."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cpu.kv_format import FULL, Arrays, KvFormat
from mlxmesh_engine.cpu.products import Floats

# Small, since large arrays are cleared when they are allocated, even the part that stays unused.
_MIN_STEP_TOKENS = 64


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """What is held of consecutive tokens: arrays (layers, kv heads, tokens, length)."""

    arrays: tuple[NDArray[Any], ...]

    @property
    def tokens(self) -> int:
        return self.arrays[0].shape[2]

    def truncated(self, tokens: int) -> "CachedTokens":
        return CachedTokens(tuple(array[:, :, :tokens] for array in self.arrays))

    def concatenated(self, later: "Sequence[CachedTokens]") -> "CachedTokens":
        if not later:
            return self
        by_array = zip(self.arrays, *(part.arrays for part in later), strict=True)
        return CachedTokens(tuple(np.concatenate(parts, axis=2) for parts in by_array))


class RowKeysValues:
    """The keys and values of one sequence; grows as tokens are appended."""

    def __init__(
        self, layers: int, kv_heads: int, head_dims: int, kv_format: KvFormat = FULL
    ) -> None:
        self.kv_format = kv_format
        columns = kv_format.columns(head_dims)
        # Those of the keys, then those of the values.
        self._arrays = [
            np.empty((layers, kv_heads, 0, length), type_) for type_, length in 2 * columns
        ]
        self._of_keys = len(columns)
        self.tokens = 0

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays)

    def keys(self, layer: int, start: int, stop: int) -> Floats:
        """Of these tokens: (kv heads, tokens, dims); not to be changed."""
        return self._decoded(self._arrays[: self._of_keys], layer, start, stop)

    def values(self, layer: int, start: int, stop: int) -> Floats:
        """As `keys`."""
        return self._decoded(self._arrays[self._of_keys :], layer, start, stop)

    def write(self, layer: int, start: int, encoded: Arrays) -> None:
        """Stores what the format made of keys, then of values: (tokens, kv heads, length) each."""
        for array, part in zip(self._arrays, encoded, strict=True):
            if len(part) == 1:
                array[layer, :, start] = part[0]
            else:
                array[layer, :, start : start + len(part)] = part.swapaxes(0, 1)

    def load(self, prefix: CachedTokens) -> None:
        """Copies a cached prefix into the empty row."""
        self.reserve(prefix.tokens)
        for array, stored in zip(self._arrays, prefix.arrays, strict=True):
            array[:, :, : prefix.tokens] = stored
        self.tokens = prefix.tokens

    def reserve(self, count: int) -> None:
        """Makes room for `count` more tokens."""
        needed = self.tokens + count
        if needed > self._arrays[0].shape[2]:
            # In steps that grow with the row: the copies stay a small part of the work.
            step = max(_MIN_STEP_TOKENS, self.tokens // 4)
            capacity = -(-needed // step) * step
            self._arrays = [self._grown(array, capacity) for array in self._arrays]

    def copy(self, start: int, stop: int) -> CachedTokens:
        return CachedTokens(tuple(array[:, :, start:stop].copy() for array in self._arrays))

    def duplicate(self) -> "RowKeysValues":
        row = copy(self)
        row._arrays = [self._grown(array, self.tokens) for array in self._arrays]
        return row

    def _decoded(self, arrays: Arrays, layer: int, start: int, stop: int) -> Floats:
        return self.kv_format.decode([array[layer, :, start:stop] for array in arrays])

    def _grown(self, array: NDArray[Any], capacity: int) -> NDArray[Any]:
        layers, kv_heads, _, length = array.shape
        grown = np.empty((layers, kv_heads, capacity, length), array.dtype)
        grown[:, :, : self.tokens] = array[:, :, : self.tokens]
        return grown


class HostCache:
    """The rows of a batch; implements `RowsCache`."""

    divisible = True
    has_states = False

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

    def copy_state(self, row: int, *, max_bytes: int) -> None:
        """Not needed: every token has its own keys and values."""

    def copy_rows(self, rows: Sequence[int]) -> "HostCache":
        """A cache with a copy of each of these rows, some of them repeated."""
        return HostCache([self.sequences[row].duplicate() for row in rows], self.token_bytes)

    cuttable = True

    def cut(self, counts: Sequence[int]) -> None:
        """Removes so many of the last tokens of each row; its memory stays."""
        for row, count in zip(self.sequences, counts, strict=True):
            row.tokens -= count

    def extend(self, other: "HostCache") -> None:
        """Appends the other's rows; the other must not be used again."""
        self.sequences += other.sequences

    def filter(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order."""
        self.sequences = [self.sequences[row] for row in rows]
