"""Counter-based randomness: a draw is a function of (seed, position) and of nothing else."""

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 64
"""Tokens per block; a draw chooses a block first, then a token in it."""


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Two numbers (batch, 2) in the open interval (0, 1) for each row's draw."""
    mixed = _mix64(_mix64(seeds) + positions * _GOLDEN)
    words = np.stack([mixed >> np.uint64(32), mixed & np.uint64(0xFFFFFFFF)], axis=-1)
    # 23 bits plus one half: exact in float32, and its product with a sum stays below the sum.
    return ((words >> np.uint64(9)) + 0.5).astype(np.float32) * np.float32(2**-23)


def padded(weights: mx.array) -> mx.array:
    """Weights (batch, vocab) with zeros appended, as `draw` expects them."""
    missing = -weights.shape[-1] % _BLOCK
    return mx.pad(weights, [(0, 0), (0, missing)]) if missing else weights


def blocked(weights: mx.array, size: int) -> mx.array:
    """Reshapes (batch, n) to (batch, n / size, size)."""
    return mx.unflatten(weights, 1, (weights.shape[1] // size, size))


def draw(weights: mx.array, numbers: NDArray[np.float32]) -> mx.array:
    """Draws a token (batch,) for each row, with a probability proportional to its weight.

    Inverts the cumulative sum over the token ids: over blocks with the first number, then inside
    the block with the second, so that neither rounding nor the number's 23 bits distort a long row.
    weights: (batch, a multiple of the block).
    """
    blocks = blocked(weights, _BLOCK)
    chosen = _invert(mx.sum(blocks, axis=-1), mx.array(numbers[:, :1]))
    inside = mx.take_along_axis(blocks, chosen[:, None], axis=1)[:, 0]
    return (chosen * _BLOCK + _invert(inside, mx.array(numbers[:, 1:])))[:, 0].astype(mx.uint32)


def _invert(weights: mx.array, number: mx.array) -> mx.array:
    """The first index (batch, 1) at which the cumulative share exceeds the number (batch, 1)."""
    cumulative = mx.cumsum(weights, axis=-1)
    passed = cumulative <= number * cumulative[:, -1:]
    return mx.minimum(mx.sum(passed, axis=-1, keepdims=True), weights.shape[-1] - 1)


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection on 64 bits. Source: the finalizer of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
