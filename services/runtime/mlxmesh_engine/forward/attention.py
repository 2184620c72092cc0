"""Causal attention and exponentials on a CPU; computed in blocks of queries without later keys."""

import math
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.evaluation import evaluate

LOG2_E = math.log2(math.e)

MIN_NUMPY_VALUES = 65_536
"""From this size on numpy is faster, although no graph is built while it waits for the values."""


def exp2(values: mx.array) -> mx.array:
    """2 to the power of each value. May overwrite `values`: use only the result."""
    if values.size < MIN_NUMPY_VALUES:
        return mx.power(2.0, values)
    view = on_host(values)
    np.exp2(view, out=view)
    return values


def on_host(array: mx.array) -> NDArray[Any]:
    """The evaluated array as a numpy view, not a copy: MLX reads what numpy writes."""
    evaluate([array])
    return cast("NDArray[Any]", np.array(array, copy=False))


# A block's scores take 2 MiB and stay in a CPU's caches.
_MAX_SCORES = 2**19
_MIN_QUERIES = 16


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """The attention output (batch, length, heads * dims) of the last `length` tokens.

    queries: (batch, length, heads, dims), scaled so that scores are powers of two. keys, values:
    (batch, kv heads, tokens, dims). mask: (batch, 1, length, tokens), True for visible keys; None
    if each query sees all tokens up to its own.
    """
    rows, length, heads, _ = queries.shape
    kv_heads, tokens = keys.shape[1:3]
    by_kv_head = mx.unflatten(queries, 2, (kv_heads, -1))
    size = max(_MIN_QUERIES, _MAX_SCORES // (rows * heads * tokens))
    blocks: list[mx.array] = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        visible = tokens - length + stop
        blocks.append(
            _attend_block(
                by_kv_head[:, start:stop],
                keys[:, :, :visible],
                values[:, :, :visible],
                None if mask is None else mask[..., start:stop, :visible],
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
    weights, sums = (_numpy_weights if scores.size >= MIN_NUMPY_VALUES else _weights)(scores, mask)
    attended = mx.flatten(weights, 2, 3) @ values / mx.flatten(sums, 2, 3)
    by_token = mx.unflatten(attended, 2, (length, group)).swapaxes(1, 2)
    return mx.reshape(by_token, (rows, length, -1))


def _weights(scores: mx.array, mask: mx.array | None) -> tuple[mx.array, mx.array]:
    """The unnormalized attention weights, and their sums over the keys.

    scores: (batch, kv heads, length, group, visible); mask as for `attend`.
    """
    length, visible = scores.shape[2], scores.shape[4]
    if mask is None and length > 1:
        mask = mx.tri(length, visible, visible - length, dtype=mx.bool_)[None, None]
    if mask is not None:
        scores = mx.where(mask[:, :, :, None], scores, -mx.inf)
    weights = exp2(scores - mx.max(scores, axis=-1, keepdims=True))
    return weights, mx.sum(weights, axis=-1, keepdims=True)


def _numpy_weights(scores: mx.array, mask: mx.array | None) -> tuple[mx.array, mx.array]:
    """As `_weights`, computed in place by numpy."""
    view = on_host(scores)
    if mask is not None:
        np.copyto(view, -np.inf, where=~on_host(mask)[:, :, :, None])
    elif (length := view.shape[2]) > 1:
        own = view[..., -length:]
        np.copyto(own, -np.inf, where=~np.tri(length, dtype=np.bool_)[:, None])
    view -= view.max(axis=-1, keepdims=True)
    np.exp2(view, out=view)
    return scores, mx.array(view.sum(axis=-1, keepdims=True))
