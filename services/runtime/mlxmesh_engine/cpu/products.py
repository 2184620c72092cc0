"""Matrix products for a CPU: the layout of the weights decides how much of a BLAS's speed they get.

A BLAS copies ("packs") both matrices before it multiplies them. With few rows the packing of the
weights takes most of the time. Two ways avoid it: a product of one row is a matrix-vector product,
and OpenBLAS has kernels for small products on AVX-512 that read both matrices where they are. So
weights are kept in blocks of 64 outputs, small enough for these kernels and for a core's cache,
and each block is multiplied by a few rows at a time. Measured in docs/benchmarks.md.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK_OUTPUTS = 64
_MAX_BLOCK_INPUTS = 1920
# OpenBLAS uses its kernels for small products up to rows * inputs * outputs = 100^3.
_MAX_SMALL_PRODUCT = 1_000_000
_MAX_SMALL_ROWS = 16
# Up to so many rows, one matrix-vector product for each is faster than packing.
_MAX_VECTOR_ROWS = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """How the weights of all products of a model are stored."""

    blocked: bool
    """In blocks (inputs, 64 outputs), for small kernels; else (outputs, inputs)."""

    def rows_at_once(self, rows: int, inputs: int) -> int:
        """How many rows each block is multiplied by at a time; 0 for one product without blocks."""
        if not self.blocked:
            return 1 if rows <= _MAX_VECTOR_ROWS else 0
        most = min(_MAX_SMALL_ROWS, _MAX_SMALL_PRODUCT // (BLOCK_OUTPUTS * inputs))
        return -(-rows // -(-rows // max(1, most)))


class Product:
    """Maps values (rows, inputs) to values @ weight.T + bias (rows, outputs).

    weight: (outputs, inputs), float32; its memory may be used and must not change. bias: (outputs,).
    """

    def __init__(self, weight: Floats, bias: Floats | None, layout: Layout) -> None:
        self.outputs, self.inputs = weight.shape
        self._layout = layout
        self._bias = bias
        parts = -(-self.inputs // _MAX_BLOCK_INPUTS) if layout.blocked else 1
        self._part_inputs = -(-self.inputs // parts)
        starts = range(0, self.inputs, self._part_inputs)
        self._parts = [
            _Part(weight[:, start : start + self._part_inputs], layout) for start in starts
        ]

    def __call__(self, values: Floats) -> Floats:
        product = self._parts[0](values[:, : self._part_inputs])
        for index, part in enumerate(self._parts[1:], 1):
            start = index * self._part_inputs
            product += part(values[:, start : start + self._part_inputs])
        if self._bias is not None:
            product += self._bias
        return product

    def weight_rows(self, outputs: NDArray[np.integer[Any]]) -> Floats:
        """The weights (len(outputs), inputs) of these outputs."""
        rows = [part.weight_rows(outputs) for part in self._parts]
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


class _Part:
    """The weights of a range of inputs."""

    def __init__(self, weight: Floats, layout: Layout) -> None:
        self._outputs, self._inputs = weight.shape
        self._layout = layout
        padding = -self._outputs % BLOCK_OUTPUTS
        if padding:
            weight = np.pad(weight, ((0, padding), (0, 0)))
        by_block = weight.reshape(-1, BLOCK_OUTPUTS, self._inputs).swapaxes(1, 2)
        if layout.blocked:
            self._blocks = np.ascontiguousarray(by_block)
            self._matrix = None
        else:
            stored = np.ascontiguousarray(weight)
            self._blocks = stored.reshape(-1, BLOCK_OUTPUTS, self._inputs).swapaxes(1, 2)
            self._matrix = stored[: self._outputs].T

    def __call__(self, values: Floats) -> Floats:
        rows = len(values)
        at_once = self._layout.rows_at_once(rows, self._inputs)
        if at_once == 0:
            assert self._matrix is not None
            return values @ self._matrix
        product = np.empty((rows, len(self._blocks), BLOCK_OUTPUTS), np.float32)
        whole = rows - rows % at_once
        self._multiply(values[:whole], product[:whole], at_once)
        if whole < rows:
            self._multiply(values[whole:], product[whole:], rows - whole)
        flat = product.reshape(rows, -1)
        return flat if flat.shape[1] == self._outputs else flat[:, : self._outputs]

    def _multiply(self, values: Floats, product: Floats, at_once: int) -> None:
        groups = len(values) // at_once
        np.matmul(
            values.reshape(1, groups, at_once, self._inputs),
            self._blocks[:, None],
            out=product.reshape(groups, at_once, -1, BLOCK_OUTPUTS).transpose(2, 0, 1, 3),
        )

    def weight_rows(self, outputs: NDArray[np.integer[Any]]) -> Floats:
        return self._blocks[outputs // BLOCK_OUTPUTS, :, outputs % BLOCK_OUTPUTS]


_SAMPLE_INPUTS, _SAMPLE_OUTPUTS, _SAMPLE_ROWS = 512, 512, 8
_SAMPLE_ROUNDS = 5
# A smaller gain may be noise, and large products prefer (outputs, inputs).
_MIN_GAIN = 1.15


def choose_layout(clock: Callable[[], float] = time.perf_counter) -> Layout:
    """Times a product of eight rows in each layout: whether small kernels exist depends on the CPU.

    Takes about 2 ms.
    """
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((_SAMPLE_OUTPUTS, _SAMPLE_INPUTS), dtype=np.float32)
    values = rng.standard_normal((_SAMPLE_ROWS, _SAMPLE_INPUTS), dtype=np.float32)

    def duration(layout: Layout) -> float:
        product = Product(weight, None, layout)
        product(values)

        def once() -> float:
            start = clock()
            product(values)
            return clock() - start

        return min(once() for _ in range(_SAMPLE_ROUNDS))

    plain, blocked = Layout(blocked=False), Layout(blocked=True)
    return blocked if duration(plain) > _MIN_GAIN * duration(blocked) else plain
