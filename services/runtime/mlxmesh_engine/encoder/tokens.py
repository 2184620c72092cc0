"""A batch of token ids, padded to one length."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.encoder.inputs import TokenInput


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows of token ids with padding after their ends."""

    token_ids: mx.array
    """(rows, length), padded with 0."""
    lengths: NDArray[np.int32]
    """(rows,)"""
    second_starts: NDArray[np.int32]
    """(rows,): where the second text begins; the row's length without one."""

    @classmethod
    def of(cls, inputs: Sequence[TokenInput]) -> "TokenBatch":
        lengths = np.array([each.length for each in inputs], np.int32)
        padded = np.zeros((len(inputs), int(lengths.max())), np.int32)
        for row, each in zip(padded, inputs, strict=True):
            row[: each.length] = each.token_ids
        starts = [each.second_start or each.length for each in inputs]
        return cls(mx.array(padded), lengths, np.array(starts, np.int32))

    @property
    def padded(self) -> bool:
        return bool((self.lengths != self.token_ids.shape[1]).any())

    @property
    def present(self) -> mx.array:
        """Whether a place has a token (rows, length)."""
        places = mx.arange(self.token_ids.shape[1])[None]
        return places < mx.array(self.lengths)[:, None]

    def types(self, count: int) -> mx.array:
        """0 for tokens of the first text and 1 for those of the second (rows, length)."""
        if count < 2:
            return mx.zeros(self.token_ids.shape, mx.int32)
        second = np.arange(self.token_ids.shape[1])[None] >= self.second_starts[:, None]
        return mx.array((second & (self.second_starts < self.lengths)[:, None]).astype(np.int32))

    def padding_mask(self, dtype: mx.Dtype) -> mx.array | None:
        """What is added to scores of padded keys (rows, 1, 1, length); None without padding."""
        if not self.padded:
            return None
        lowest = mx.finfo(dtype).min
        mask = mx.where(self.present, mx.array(0, dtype), mx.array(lowest, dtype))
        return mask[:, None, None, :]
