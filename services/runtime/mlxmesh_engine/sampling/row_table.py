"""A subset of a batch's rows, and a table with one entry for each row of a subset."""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray


class RowSet:
    """Rows of a batch that are computed separately; the set of all rows costs no copy."""

    def __init__(self, rows: Sequence[int], batch: int) -> None:
        self.count = len(rows)
        self._index = None if len(rows) == batch else mx.array(list(rows), mx.uint32)

    def select(self, batch: mx.array) -> mx.array:
        return batch if self._index is None else batch[self._index]

    def replace(self, batch: mx.array, values: mx.array) -> mx.array:
        """A copy of `batch` with these rows replaced."""
        if self._index is None:
            return values
        replaced = mx.array(batch)
        replaced[self._index] = values
        return replaced


class RowTable:
    """A vector of numbers for each sequence of a batch that needs one, on the device."""

    def __init__(self) -> None:
        self._batch = 0
        self._owners: list[int] = []
        self.rows = RowSet([], 0)
        self.values: mx.array | None = None
        """(rows with a vector, vocab); None if no row has one."""

    def join(self, rows: Sequence[NDArray[np.float32] | None]) -> None:
        """Appends sequences; None for one that needs no vector."""
        new = [row for row in rows if row is not None]
        self._owners += [self._batch + at for at, row in enumerate(rows) if row is not None]
        self._batch += len(rows)
        if new:
            added = mx.array(np.stack(new))
            self.values = added if self.values is None else mx.concatenate([self.values, added])
        self.rows = RowSet(self._owners, self._batch)

    def filter(self, rows: Sequence[int]) -> None:
        """Keeps these sequences, in this order."""
        index = {owner: at for at, owner in enumerate(self._owners)}
        kept = [index[row] for row in rows if row in index]
        if not kept:
            self.values = None
        elif self.values is not None and kept != list(range(len(self._owners))):
            self.values = self.values[mx.array(kept, mx.uint32)]
        self._owners = [at for at, row in enumerate(rows) if row in index]
        self._batch = len(rows)
        self.rows = RowSet(self._owners, self._batch)

    def add(self, tokens: mx.array, amount: float) -> None:
        """Adds to each sequence's number at its token. tokens: (batch,)."""
        if self.values is not None:
            at_tokens = cast("Any", self.values.at[self._rows_and(tokens)])
            self.values = at_tokens.add(amount)

    def set(self, tokens: mx.array, numbers: mx.array) -> None:
        """Sets each sequence's number at its token. tokens: (batch,), numbers: (rows,)."""
        if self.values is not None:
            self.values[self._rows_and(tokens)] = numbers

    def copy_rows(self, other: "RowTable", rows: Sequence[int]) -> None:
        """Becomes a copy of some rows of another table, some of them repeated."""
        index = {owner: at for at, owner in enumerate(other._owners)}
        self._owners = [at for at, row in enumerate(rows) if row in index]
        self._batch = len(rows)
        self.rows = RowSet(self._owners, self._batch)
        self.values = None
        if other.values is not None and self._owners:
            self.values = other.values[mx.array([index[row] for row in rows if row in index])]

    def pairs(self, rows: Sequence[int], tokens: Sequence[int]) -> tuple[list[int], list[int]]:
        """The entries (index of the vector, token) of pairs of a sequence and a token.

        Those of sequences without a vector are left out.
        """
        index = {owner: at for at, owner in enumerate(self._owners)}
        own = [(index[row], token) for row, token in zip(rows, tokens, strict=True) if row in index]
        return [at for at, _ in own], [token for _, token in own]

    def arrays(self) -> list[mx.array]:
        return [] if self.values is None else [self.values]

    def _rows_and(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        return mx.arange(self.rows.count), self.rows.select(tokens)
