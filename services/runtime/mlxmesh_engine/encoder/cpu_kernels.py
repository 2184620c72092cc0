"""Two parts of a layer in numpy, for float32 on a CPU, where those of mlx take longer than the
products: its erf is 4 times as slow, and its attention computes what is padded too.
"""

import math

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Blocks stay in a CPU's caches.
_GELU_BLOCK = 2**15
_MAX_SCORES = 2**19
_MIN_QUERIES = 16
# erf(z) = z P(z^2) / Q(z^2) for |z| <= 4, to float32's precision; beyond it is 1.
# Source: Eigen, `generic_fast_erf_float`, and XLA, `EmitErfF32`.
_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def serves(array: mx.array) -> bool:
    """Whether these kernels compute with this array."""
    return array.dtype == mx.float32 and mx.default_device() == mx.Device(mx.cpu)


def gelu(array: mx.array) -> mx.array:
    """X (1 + erf(x / sqrt 2)) / 2."""
    values = view(array).reshape(-1)
    result = np.empty_like(values)
    size = min(_GELU_BLOCK, len(values))
    buffers = np.empty((4, size), np.float32)
    for start in range(0, len(values), size):
        block = values[start : start + size]
        _gelu(block, result[start : start + size], buffers[:, : len(block)])
    return mx.reshape(mx.array(result), array.shape)


def _gelu(values: Floats, result: Floats, buffers: Floats) -> None:
    scaled, squared, above, below = buffers
    np.multiply(values, np.float32(1 / math.sqrt(2)), out=scaled)
    np.clip(scaled, -4, 4, out=scaled)
    np.multiply(scaled, scaled, out=squared)
    _polynomial(squared, _P, above)
    _polynomial(squared, _Q, below)
    np.divide(above, below, out=above)
    np.multiply(above, scaled, out=above)
    np.add(above, 1, out=above)
    np.multiply(above, values, out=above)
    np.multiply(above, np.float32(0.5), out=result)


def _polynomial(values: Floats, coefficients: tuple[float, ...], result: Floats) -> None:
    result.fill(coefficients[0])
    for coefficient in coefficients[1:]:
        np.multiply(result, values, out=result)
        np.add(result, np.float32(coefficient), out=result)


def attend(
    joined: mx.array, lengths: NDArray[np.int32], *, heads: int, scale: float, bias: mx.array | None
) -> mx.array:
    """Attention of each row's tokens to all of its tokens (rows, length, hidden).

    joined: queries, keys and values (rows, length, 3 * hidden). bias: added to scores
    (1, heads, length, length). Padding gets zeros.
    """
    rows, length, size = joined.shape
    split = view(joined).reshape(rows, length, 3, heads, size // 3 // heads)
    added = None if bias is None else view(bias)[0]
    result = np.zeros((rows, length, heads, size // 3 // heads), np.float32)
    for row, count in enumerate(lengths.tolist()):
        queries, keys, values = split[row, :count].transpose(1, 2, 0, 3)
        output = result[row, :count].transpose(1, 0, 2)
        step = max(_MIN_QUERIES, _MAX_SCORES // (heads * count))
        for start in range(0, count, step):
            stop = min(start + step, count)
            scores = np.matmul(queries[:, start:stop] * np.float32(scale), keys.swapaxes(1, 2))
            if added is not None:
                scores += added[:, start:stop, :count]
            scores -= scores.max(axis=2, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=2, keepdims=True)
            output[:, start:stop] = np.matmul(scores, values)
    return mx.reshape(mx.array(result), (rows, length, size // 3))


def view(array: mx.array) -> Floats:
    """The array as numpy's, without a copy; evaluates it."""
    return np.asarray(array, np.float32)
