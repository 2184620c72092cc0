"""Counter-based randomness: a draw is a function of (seed, position) and of nothing else."""

from collections.abc import Callable
from typing import cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SMALLEST_UNIFORM = 1e-30


def draw_keys(seeds: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """A key (batch, 2) for each row's draw; one seed's positions never share a key."""
    mixed = _mix64(_mix64(seeds) + positions * _GOLDEN)
    return np.stack([mixed >> np.uint64(32), mixed & np.uint64(0xFFFFFFFF)], axis=-1).astype(
        np.uint32
    )


def exponentials(keys: NDArray[np.uint32], vocab_size: int) -> mx.array:
    """Exponential variates (batch, vocab), each row from its own key alone.

    argmax(weight / exponential) draws a token with a probability in proportion to its weight.
    Source: Gumbel-max trick, in its exponential form.
    """

    def uniform(key: mx.array) -> mx.array:
        return mx.random.uniform(shape=(vocab_size,), key=key)

    rows = cast("Callable[[mx.array], mx.array]", mx.vmap(uniform))(mx.array(keys))
    # Never 0: an infinite variate could rule out every token.
    return -mx.log(mx.maximum(rows, _SMALLEST_UNIFORM))


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection on 64 bits. Source: SplitMix64 (Steele et al. 2014), its finalizer."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
