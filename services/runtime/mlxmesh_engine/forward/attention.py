"""Causal attention and exponentials on a CPU: by blocks of queries, no block reads later keys."""

import math
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.evaluation import compute

LOG2_E = math.log2(math.e)

MANY = 65_536
"""From so many values on, numpy is worth the wait for them, in which nothing else is built."""


def exp2(values: mx.array) -> mx.array:
    """2 to the power of each value. Many are replaced in place: only the result may be used."""
    if values.size < MANY:
        return mx.power(2.0, values)
    view = on_host(values)
    np.exp2(view, out=view)
    return values


def on_host(array: mx.array) -> NDArray[Any]:
    """The computed array itself, not a copy: what numpy writes there, mlx reads."""
    compute([array])
    return cast("NDArray[Any]", np.array(array, copy=False))


# A block's scores, 2 MiB, stay in the caches of a CPU.
_MAX_SCORES = 2**19
_LEAST_QUERIES = 16


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """(batch, length, heads * dims) of the last `length` tokens.

    queries: (batch, length, heads, dims), scaled so that scores are powers of two. keys, values:
    (batch, kv heads, tokens, dims). mask: (batch, 1, length, tokens), True for what is seen; None
    where that is all tokens up to a query's own.
    """
    rows, length, heads, _ = queries.shape
    kv_heads, tokens = keys.shape[1:3]
    by_kv_head = mx.unflatten(queries, 2, (kv_heads, -1))
    size = max(_LEAST_QUERIES, _MAX_SCORES // (rows * heads * tokens))
    blocks: list[mx.array] = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        seen = tokens - length + stop
        blocks.append(
            _attend_block(
                by_kv_head[:, start:stop],
                keys[:, :, :seen],
                values[:, :, :seen],
                None if mask is None else mask[..., start:stop, :seen],
            )
        )
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=1)


def _attend_block(
    queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None
) -> mx.array:
    """queries: (batch, length, kv heads, group, dims); the others as for `attend`."""
    rows, length, _, group, _ = queries.shape
    # One product for all queries that share keys.
    flat = mx.flatten(queries.swapaxes(1, 2), 2, 3)
    scores = mx.unflatten(flat @ keys.swapaxes(-1, -2), 2, (length, group))
    weights, sums = (_many_weights if scores.size >= MANY else _weights)(scores, mask)
    attended = mx.flatten(weights, 2, 3) @ values / mx.flatten(sums, 2, 3)
    by_token = mx.unflatten(attended, 2, (length, group)).swapaxes(1, 2)
    return mx.reshape(by_token, (rows, length, -1))


def _weights(scores: mx.array, mask: mx.array | None) -> tuple[mx.array, mx.array]:
    """What each key's value counts, and the sum of that over the keys.

    scores: (batch, kv heads, length, group, seen); mask as for `attend`.
    """
    length, seen = scores.shape[2], scores.shape[4]
    if mask is None and length > 1:
        mask = mx.tri(length, seen, seen - length, dtype=mx.bool_)[None, None]
    if mask is not None:
        scores = mx.where(mask[:, :, :, None], scores, -mx.inf)
    weights = exp2(scores - mx.max(scores, axis=-1, keepdims=True))
    return weights, mx.sum(weights, axis=-1, keepdims=True)


def _many_weights(scores: mx.array, mask: mx.array | None) -> tuple[mx.array, mx.array]:
    """The same, computed in place by numpy."""
    view = on_host(scores)
    if mask is not None:
        np.copyto(view, -np.inf, where=~on_host(mask)[:, :, :, None])
    elif (length := view.shape[2]) > 1:
        own = view[..., -length:]
        np.copyto(own, -np.inf, where=~np.tri(length, dtype=np.bool_)[:, None])
    view -= view.max(axis=-1, keepdims=True)
    np.exp2(view, out=view)
    return scores, mx.array(view.sum(axis=-1, keepdims=True))
