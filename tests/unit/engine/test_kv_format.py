"""Keys and values with fewer bits: within half a step of what they were, each token by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlxmesh_engine.cpu.cache import RowKeysValues
from mlxmesh_engine.cpu.kv_format import FULL, Quantized, head_bytes

LAYERS, HEADS = 2, 3


def drawn(seed: int, tokens: int, dims: int, size: float = 1.0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(tokens, HEADS, dims))
    return (size * drawn + seed % 7).astype(np.float32)


def row_of(values: NDArray[np.float32], kv_format: Quantized) -> RowKeysValues:
    """A row whose keys are these values in all layers; the values are their opposites."""
    tokens, _, dims = values.shape
    row = RowKeysValues(LAYERS, HEADS, dims, kv_format)
    row.reserve(tokens)
    encoded = [*kv_format.encode(values), *kv_format.encode(-values)]
    for layer in range(LAYERS):
        row.write(layer, 0, encoded)
    row.tokens = tokens
    return row


@given(
    seed=st.integers(0, 1000),
    tokens=st.integers(1, 700),
    dims=st.sampled_from([2, 16, 36, 64, 80, 128]),
    bits=st.sampled_from([8, 4]),
    size=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_numbers_are_within_half_a_step(
    seed: int, tokens: int, dims: int, bits: int, size: float
) -> None:
    values = drawn(seed, tokens, dims, size)
    row = row_of(values, Quantized(bits))
    group = np.gcd(dims, 32)
    groups = values.reshape(tokens, HEADS, -1, group)
    spread = np.repeat(np.ptp(groups, axis=-1), group, axis=-1)
    # Both factors are float16, the smallest number of a group and the size of a step.
    step = (spread + np.abs(values).max() * 2**-10) / (2**bits - 1) * 1.001 + 2**-24
    allowed = step / 2 + np.abs(values).max() * 2**-22
    for read, expected in ((row.keys, values), (row.values, -values)):
        error = np.abs(read(1, 0, tokens).swapaxes(0, 1) - expected)
        assert (error <= allowed).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_token_is_kept_alike_alone_in_a_slice_and_in_a_copy(bits: int) -> None:
    kv_format, values = Quantized(bits), drawn(1, 90, 16)
    row = row_of(values, kv_format)
    for token in (0, 41, 89):
        alone = row_of(values[token : token + 1], kv_format)
        assert np.array_equal(alone.keys(0, 0, 1), row.keys(0, token, token + 1))
    copied = RowKeysValues(LAYERS, HEADS, 16, kv_format)
    copied.load(row.copy(0, 30).concatenated([row.copy(30, 64), row.copy(64, 90).truncated(20)]))
    assert copied.tokens == 84
    same = row.duplicate()
    same.reserve(100)
    for other, tokens in ((copied, 84), (same, 90)):
        assert np.array_equal(other.values(1, 0, tokens), row.values(1, 0, tokens))


def test_equal_numbers_are_exact_and_nan_stays_nan() -> None:
    values = np.full((1, HEADS, 64), 3.0, np.float32)
    values[:, 1] = np.nan
    for bits in (8, 4):
        keys = row_of(values, Quantized(bits)).keys(0, 0, 1)
        assert (keys[[0, 2]] == 3.0).all()
        assert np.isnan(keys[1]).all()


def test_a_row_takes_the_memory_that_is_said() -> None:
    assert [head_bytes(each, 64) for each in (FULL, Quantized(8), Quantized(4))] == [256, 72, 40]
    row = row_of(drawn(1, 64, 64), Quantized(4))
    assert row.nbytes == 2 * LAYERS * HEADS * 64 * head_bytes(Quantized(4), 64)
