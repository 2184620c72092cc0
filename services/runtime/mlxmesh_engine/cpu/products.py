"""Matrix products for a CPU: the layout of the weights decides how much of a BLAS's speed they get.

A BLAS copies ("packs") both matrices before it multiplies them. With few rows the packing of the
weights takes most of the time. Two ways avoid it: a product of one row is a matrix-vector product,
and OpenBLAS has kernels for small products on AVX-512 that read both matrices where they are. So
weights are kept in blocks of 64 outputs, small enough for these kernels and for a core's cache,
and each block is multiplied by a few rows at a time. Measured in docs/benchmarks.md.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cpu.workers import ALONE, Workers

Floats = NDArray[np.float32]

BLOCK_OUTPUTS = 64
_MAX_BLOCK_INPUTS = 1920
# OpenBLAS uses its kernels for small products up to rows * inputs * outputs = 100^3.
_MAX_SMALL_PRODUCT = 1_000_000
_MAX_SMALL_ROWS = 16
# Up to so many rows, one matrix-vector product for each is faster than packing.
_MAX_VECTOR_ROWS = 3
_MIN_SHARED_WEIGHTS = 2**18


@dataclass(frozen=True, slots=True)
class Layout:
    """How the weights of all products of a model are stored, and which threads multiply them."""

    blocked: bool
    """In blocks (inputs, 64 outputs), for small kernels; else (outputs, inputs)."""
    workers: Workers = field(default=ALONE, compare=False)

    def rows_at_once(self, rows: int, inputs: int) -> int:
        """How many rows each block is multiplied by at a time; 0 for one product without blocks."""
        if not self.blocked:
            return 1 if rows <= _MAX_VECTOR_ROWS else 0
        most = min(_MAX_SMALL_ROWS, _MAX_SMALL_PRODUCT // (BLOCK_OUTPUTS * inputs))
        return -(-rows // -(-rows // max(1, most)))


class Product:
    """Maps values (rows, inputs) to values @ weight.T + bias (rows, outputs).

    weight: (outputs, inputs), float32; its memory may be used and must not change.
    bias: (outputs,) or None.
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
        if not layout.blocked:
            weight = np.ascontiguousarray(weight)
        by_block = weight.reshape(-1, BLOCK_OUTPUTS, self._inputs).swapaxes(1, 2)
        self._blocks = np.ascontiguousarray(by_block) if layout.blocked else by_block

    def __call__(self, values: Floats) -> Floats:
        rows, blocks = len(values), self._blocks
        product = np.empty((rows, len(blocks), BLOCK_OUTPUTS), np.float32)
        # Threads are not worth it for products that one of them finishes in microseconds.
        workers = self._layout.workers if blocks.size >= _MIN_SHARED_WEIGHTS else ALONE
        workers.split(
            len(blocks), lambda start, stop: self._multiply(values, product, slice(start, stop))
        )
        flat = product.reshape(rows, -1)
        return flat if flat.shape[1] == self._outputs else flat[:, : self._outputs]

    def _multiply(self, values: Floats, product: Floats, part: slice) -> None:
        """Computes the outputs of some blocks."""
        rows, blocks = len(values), self._blocks[part]
        at_once = self._layout.rows_at_once(rows, self._inputs)
        if at_once == 0:
            # In this layout the blocks are one matrix (outputs, inputs); reshape copies nothing.
            matrix = blocks.swapaxes(1, 2).reshape(-1, self._inputs)
            columns = slice(part.start * BLOCK_OUTPUTS, part.stop * BLOCK_OUTPUTS)
            np.matmul(values, matrix.T, out=product.reshape(rows, -1)[:, columns])
            return
        whole = rows - rows % at_once
        _multiply_blocks(values[:whole], blocks, product[:whole, part], at_once)
        if whole < rows:
            _multiply_blocks(values[whole:], blocks, product[whole:, part], rows - whole)

    def weight_rows(self, outputs: NDArray[np.integer[Any]]) -> Floats:
        return self._blocks[outputs // BLOCK_OUTPUTS, :, outputs % BLOCK_OUTPUTS]


def _multiply_blocks(values: Floats, blocks: Floats, product: Floats, at_once: int) -> None:
    """values: (rows, inputs); blocks: (blocks, inputs, 64); product: (rows, blocks, 64)."""
    groups = len(values) // at_once
    np.matmul(
        values.reshape(1, groups, at_once, -1),
        blocks[:, None],
        out=product.reshape(groups, at_once, -1, BLOCK_OUTPUTS).transpose(2, 0, 1, 3),
    )


Clock = Callable[[], float]
_SAMPLE_ROWS = 8
_SAMPLE_ROUNDS = 5
_LAYOUT_SAMPLE = (512, 512)
# Larger than a core's cache, as the products of real models are.
_THREADS_SAMPLE = (4096, 1024)
# A smaller gain may be noise; large products prefer (outputs, inputs), and others need the cores.
_MIN_GAIN = 1.15


def choose_layout(*, threads: int = 0, cores: int = 1, clock: Clock = time.perf_counter) -> Layout:
    """Times products of eight rows in each layout, then with as many threads as there are cores.

    threads: how many to use; 0 to choose. Takes about 2 ms, 20 ms if there are several cores.
    """
    plain, blocked = Layout(blocked=False), Layout(blocked=True)
    gain = _duration(plain, _LAYOUT_SAMPLE, clock) / _duration(blocked, _LAYOUT_SAMPLE, clock)
    layout = blocked if gain > _MIN_GAIN else plain
    if threads:
        return replace(layout, workers=Workers(threads))
    return _with_threads(layout, cores, clock)


def _with_threads(layout: Layout, cores: int, clock: Clock) -> Layout:
    """With a thread for each core, or for every other core, or with one: few if it is as fast."""
    fastest = _duration(layout, _THREADS_SAMPLE, clock) if cores > 1 else 0.0
    for threads in sorted({-(-cores // 2), cores} - {1}):
        shared = replace(layout, workers=Workers(threads))
        duration = _duration(shared, _THREADS_SAMPLE, clock)
        if fastest > _MIN_GAIN * duration:
            layout.workers.close()
            layout, fastest = shared, duration
        else:
            shared.workers.close()
    return layout


def _duration(layout: Layout, shape: tuple[int, int], clock: Clock) -> float:
    """The shortest of some products of (outputs, inputs) weights, in seconds."""
    rng = np.random.default_rng(0)
    product = Product(rng.standard_normal(shape, dtype=np.float32), None, layout)
    values = rng.standard_normal((_SAMPLE_ROWS, shape[1]), dtype=np.float32)
    product(values)

    def once() -> float:
        start = clock()
        product(values)
        return clock() - start

    return min(once() for _ in range(_SAMPLE_ROUNDS))
