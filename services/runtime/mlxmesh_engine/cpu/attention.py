"""Causal attention over the keys and values of each sequence, in numpy."""

from collections.abc import Sequence

import numpy as np

from mlxmesh_engine.cpu.blocks import Attention
from mlxmesh_engine.cpu.cache import RowKeysValues
from mlxmesh_engine.cpu.products import Floats

# A block's scores take 2 MiB and stay in a CPU's caches.
_MAX_SCORES = 2**19
_MIN_QUERIES = 16


def attend(
    attention: Attention,
    queries: Floats,
    rows: Sequence[RowKeysValues],
    counts: Sequence[int],
    layer: int,
) -> Floats:
    """The attention's output (tokens, heads * dims), before its product.

    queries: (tokens, heads, dims), scaled; the last `counts[i]` tokens of each row, one row after
    the other. The rows hold the keys and values of these tokens already.
    """
    tokens = len(queries)
    grouped = queries.reshape(
        tokens, attention.kv_heads, attention.heads // attention.kv_heads, attention.head_dims
    )
    output = np.empty(grouped.shape, np.float32)
    if all(count == 1 for count in counts):
        _attend_last(attention, grouped, rows, layer, output)
    else:
        _attend_mixed(attention, grouped, rows, counts, layer, output)
    return output.reshape(tokens, -1)


def _attend_mixed(
    attention: Attention,
    queries: Floats,
    rows: Sequence[RowKeysValues],
    counts: Sequence[int],
    layer: int,
    output: Floats,
) -> None:
    """Rows with one token together, as in a batch of such rows, and each of the others alone."""
    starts = np.cumsum([0, *counts])
    single = [at for at, count in enumerate(counts) if count == 1]
    if single:
        places = starts[single]
        attended = np.empty((len(single), *output.shape[1:]), np.float32)
        _attend_last(attention, queries[places], [rows[at] for at in single], layer, attended)
        output[places] = attended
    for row, start, count in zip(rows, starts, counts, strict=False):
        if count > 1:
            part = slice(start, start + count)
            _attend_row(attention, queries[part], row, layer, output[part])


def _attend_last(
    attention: Attention,
    queries: Floats,
    rows: Sequence[RowKeysValues],
    layer: int,
    output: Floats,
) -> None:
    """One query for each row: the last token's."""
    starts = [_first_key(attention.window, row.tokens - 1) for row in rows]
    visible = [row.tokens - start for row, start in zip(rows, starts, strict=True)]
    longest = max(visible)
    scores = np.full((*queries.shape[:3], longest), -np.inf, np.float32)
    for at, row in enumerate(rows):
        keys = row.keys(layer, starts[at], row.tokens)
        np.matmul(queries[at], keys.swapaxes(1, 2), out=scores[at, :, :, : visible[at]])
    sums = exponentials(scores, attention.softcap)
    for at, row in enumerate(rows):
        values = row.values(layer, starts[at], row.tokens)
        np.matmul(scores[at, :, :, : visible[at]], values, out=output[at])
    output /= sums


def _attend_row(
    attention: Attention, queries: Floats, row: RowKeysValues, layer: int, output: Floats
) -> None:
    """The last tokens of one row, in blocks of queries without the keys after them."""
    length, kv_heads, group, dims = queries.shape
    before = row.tokens - length
    oldest = _first_key(attention.window, before)
    keys, values = (read(layer, oldest, row.tokens) for read in (row.keys, row.values))
    size = max(_MIN_QUERIES, _MAX_SCORES // (kv_heads * group * row.tokens))
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = _first_key(attention.window, before + start)
        visible = slice(first - oldest, before + stop - oldest)
        # One product for all queries that share keys: (kv heads, group * queries, dims).
        flat = queries[start:stop].transpose(1, 2, 0, 3).reshape(kv_heads, -1, dims)
        scores = flat @ keys[:, visible].swapaxes(1, 2)
        by_query = scores.reshape(kv_heads, group, stop - start, -1)
        own = by_query[..., before + start - first :]
        np.copyto(own, -np.inf, where=~np.tri(stop - start, dtype=np.bool_))
        if attention.window is not None:
            _hide_old(by_query, before + start - first, attention.window)
        sums = exponentials(scores, attention.softcap)
        attended = scores @ values[:, visible]
        attended /= sums
        output[start:stop] = attended.reshape(kv_heads, group, -1, dims).transpose(2, 0, 1, 3)


def _first_key(window: int | None, position: int) -> int:
    """The oldest key that the query at this position sees."""
    return 0 if window is None else max(0, position - window + 1)


def _hide_old(scores: Floats, own: int, window: int) -> None:
    """Hides the keys that are older than the window. own: the column of the first query's key."""
    queries, keys = scores.shape[-2:]
    ages = np.subtract.outer(
        own + np.arange(queries, dtype=np.int64), np.arange(keys, dtype=np.int64)
    )
    np.copyto(scores, -np.inf, where=np.greater_equal(ages, window))


def exponentials(scores: Floats, softcap: float | None) -> Floats:
    """Replaces scores by unnormalized weights; returns their sums over the keys."""
    if softcap is not None:
        # Hidden keys become -softcap, so they are hidden again.
        hidden = np.isneginf(scores)
        scores /= softcap
        np.tanh(scores, out=scores)
        scores *= softcap
        np.copyto(scores, -np.inf, where=hidden)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    return scores.sum(axis=-1, keepdims=True)
