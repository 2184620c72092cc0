"""Attention over rows of their own lengths, in blocks, against the textbook in float64."""

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxmesh_engine.cpu.attention import attend
from mlxmesh_engine.cpu.blocks import Attention
from mlxmesh_engine.cpu.cache import RowKeysValues

HEADS, KV_HEADS, DIMS = 4, 2, 8
UNUSED: Any = None


def drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def row_of(tokens: int, *, layers: int = 2) -> RowKeysValues:
    row = RowKeysValues(layers, KV_HEADS, DIMS)
    row.reserve(tokens)
    keys = drawn(layers, tokens, KV_HEADS, DIMS)
    values = drawn(layers, tokens, KV_HEADS, DIMS + 1)[..., 1:]
    for layer in range(layers):
        row.write(layer, 0, [keys[layer], values[layer]])
    row.tokens = tokens
    return row


def textbook(
    queries: NDArray[np.float32], row: RowKeysValues, layer: int, attention: Attention
) -> NDArray[np.float64]:
    """The output (length, heads * dims) for the last tokens of one row."""
    length, tokens = len(queries), row.tokens
    keys, values = (
        np.repeat(read(layer, 0, tokens), HEADS // KV_HEADS, axis=0).astype(np.float64)
        for read in (row.keys, row.values)
    )
    scores = np.einsum("lhd,htd->hlt", queries.astype(np.float64), keys)
    if attention.softcap is not None:
        scores = attention.softcap * np.tanh(scores / attention.softcap)
    ages = np.arange(tokens - length, tokens)[:, None] - np.arange(tokens)
    seen = (ages >= 0) & (ages < (attention.window or tokens))
    weights = np.exp(np.where(seen, scores, -np.inf) - scores.max(initial=0.0))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hlt,htd->lhd", weights, values).reshape(length, HEADS * DIMS)


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    "rows",
    [
        [(1, 1)],
        [(5, 5)],
        [(300, 300)],
        [(700, 2500)],  # several blocks
        [(1, 3000)],
        [(1, 9), (1, 1), (1, 40)],
        [(7, 9), (1, 30), (200, 210)],
        [(0, 0), (2, 5)],  # a row without new tokens
    ],
    ids=str,
)
def test_attention_equals_the_textbook(
    rows: list[tuple[int, int]], window: int | None, softcap: float | None
) -> None:
    attention = Attention(HEADS, KV_HEADS, DIMS, UNUSED, UNUSED, window=window, softcap=softcap)
    counts, cached = [length for length, _ in rows], [row_of(tokens) for _, tokens in rows]
    queries = drawn(sum(counts), HEADS, DIMS)
    found = attend(attention, queries, cached, counts, 1)
    parts = np.split(queries, np.cumsum(counts)[:-1])
    wanted = [textbook(part, row, 1, attention) for part, row in zip(parts, cached, strict=True)]
    np.testing.assert_allclose(found, np.concatenate(cast("Any", wanted)), atol=3e-5, rtol=1e-6)
