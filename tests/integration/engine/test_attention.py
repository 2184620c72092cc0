"""Attention in blocks, computed by mlx or by numpy, against the textbook in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxmesh_engine.forward.attention import MIN_NUMPY_VALUES, attend, exp2
from tests.fakes.tiny_model import mx

HEADS, KV_HEADS, DIMS = 4, 2, 8


def drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def textbook(
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    seen: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """seen: (batch, length, tokens)."""
    each = [
        np.repeat(array, HEADS // KV_HEADS, axis=1).astype(np.float64) for array in (keys, values)
    ]
    scores = np.einsum("blhd,bhtd->bhlt", queries.astype(np.float64), each[0])
    scores = np.where(seen[:, None], scores, -np.inf)
    weights = np.exp2(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    attended = np.einsum("bhlt,bhtd->blhd", weights, each[1])
    return attended.reshape(*queries.shape[:2], -1)


@pytest.mark.parametrize(
    ("rows", "length", "tokens", "padded"),
    [
        (1, 1, 1, False),
        (1, 5, 5, False),
        (1, 300, 300, False),
        (1, 700, 2500, False),  # several blocks
        (1, 1, 40_000, False),
        (3, 7, 9, True),
        (3, 1, 9, True),
        (3, 200, 210, True),
    ],
)
def test_attention_equals_the_textbook(rows: int, length: int, tokens: int, padded: bool) -> None:
    queries = drawn(rows, length, HEADS, DIMS)
    keys, values = drawn(rows, KV_HEADS, tokens, DIMS), drawn(rows, KV_HEADS, tokens, DIMS)
    seen = np.tri(length, tokens, tokens - length, dtype=np.bool_)[None].repeat(rows, axis=0)
    if padded:
        seen &= np.arange(tokens) >= np.arange(rows)[:, None, None]
    mask = mx.array(seen[:, None].tolist()) if padded else None
    found = attend(mx.array(queries), mx.array(keys), mx.array(values), mask)
    # The precision of float32 with any BLAS: sums of 40,000 terms round more often.
    atol, rtol = (2e-5, 1e-7) if tokens < 10_000 else (6e-5, 3e-5)
    wanted = textbook(queries, keys, values, seen)
    np.testing.assert_allclose(np.array(found), wanted, atol=atol, rtol=rtol)


@pytest.mark.parametrize("count", [3, MIN_NUMPY_VALUES])
def test_powers_of_two_down_to_zero(count: int) -> None:
    given = np.resize(np.array([0.0, -1.5, -np.inf, -150.0], np.float32), count)
    np.testing.assert_allclose(np.array(exp2(mx.array(given))), np.exp2(given), rtol=1e-6)
