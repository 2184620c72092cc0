"""A (batch, vocab) array on the device that exists only while some row needs it."""

from collections.abc import Sequence as Seq
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray


class RowTable:
    """One row of numbers per sequence, zeros where a sequence needs none."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._needed: list[bool] = []
        self.values: mx.array | None = None

    def join(self, rows: Seq[NDArray[np.float32] | None]) -> None:
        """Appends rows; None where the sequence does not need the table."""
        before = len(self._needed)
        self._needed += [row is not None for row in rows]
        if not any(self._needed):
            return
        zeros = np.zeros(self._vocab_size, np.float32)
        new = mx.array(np.stack([zeros if row is None else row for row in rows]))
        old = mx.zeros((before, self._vocab_size)) if self.values is None else self.values
        self.values = mx.concatenate([old, new])

    def keep(self, rows: Seq[int]) -> None:
        self._needed = [self._needed[row] for row in rows]
        if not any(self._needed):
            self.values = None
        elif self.values is not None:
            self.values = self.values[mx.array(list(rows))]

    def count(self, tokens: mx.array) -> None:
        """Adds 1 to each row at its token. tokens: (batch,)."""
        if self.values is not None:
            at_tokens = cast("Any", self.values.at[mx.arange(tokens.shape[0]), tokens])
            self.values = at_tokens.add(1.0)
