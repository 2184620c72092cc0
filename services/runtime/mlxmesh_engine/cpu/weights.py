"""Takes weights out of mlx's modules, and joins and scales them for a `Product`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cpu.products import Floats, Layout, Product


@dataclass(frozen=True, slots=True)
class Rows:
    """A linear layer: weight (outputs, inputs), bias (outputs,); of experts, one axis more."""

    weight: Floats
    bias: Floats | None

    def expert(self, index: int) -> "Rows":
        return Rows(self.weight[index], None if self.bias is None else self.bias[index])

    def scaled(self, factor: float) -> "Rows":
        if factor == 1.0:
            return self
        bias = None if self.bias is None else self.bias * np.float32(factor)
        return Rows(self.weight * np.float32(factor), bias)

    def product(self, layout: Layout) -> Product:
        return Product(self.weight, self.bias, layout)


def kind_of(module: Any) -> str:
    """The full name of its class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def take(module: Any, name: str) -> Floats | None:
    """Removes an array from its module: its memory is freed when the result is."""
    array = module.pop(name, None)
    return None if array is None else np.array(array, copy=False)


def take_rows(linear: Any) -> Rows:
    weight = take(linear, "weight")
    assert weight is not None
    return Rows(weight, take(linear, "bias"))


def take_gain(norm: Any, offset: float) -> Floats:
    gain = take(norm, "weight")
    assert gain is not None
    return gain + np.float32(offset)


def join(parts: Sequence[Rows], gain: Floats | None = None) -> Rows:
    """Their outputs one after the other, in new arrays. gain: of the inputs."""
    weight = np.concatenate([part.weight for part in parts])
    if gain is not None:
        weight *= gain
    if all(part.bias is None for part in parts):
        return Rows(weight, None)
    biases = [
        np.zeros(len(part.weight), np.float32) if part.bias is None else part.bias for part in parts
    ]
    return Rows(weight, np.concatenate(biases))


@dataclass(frozen=True, slots=True)
class HeadShape:
    queries: int
    keys: int
    """As many as values."""
    dims: int

    @property
    def total(self) -> int:
        return self.queries + 2 * self.keys

    def from_groups(self) -> NDArray[np.int64]:
        """The order of heads that are stored by group: its queries, its key, its value."""
        by_group = np.arange(self.total).reshape(self.keys, -1)
        parts = by_group[:, :-2], by_group[:, -2], by_group[:, -1]
        return np.concatenate([part.reshape(-1) for part in parts])


def arrange_heads(
    rows: Rows,
    shape: HeadShape,
    *,
    dims_order: NDArray[np.int64],
    query_scale: float,
    in_groups: bool,
) -> Rows:
    """The rows of queries, keys and values: pairs become neighbours, queries are scaled."""
    order = shape.from_groups() if in_groups else np.arange(shape.total)
    rotated = shape.queries + shape.keys

    def arranged(outputs: Floats) -> Floats:
        heads = outputs.reshape(shape.total, shape.dims, -1)
        if in_groups:
            heads = heads[order]
        heads[:rotated] = heads[:rotated, dims_order]
        heads[: shape.queries] *= np.float32(query_scale)
        return heads.reshape(outputs.shape)

    return Rows(arranged(rows.weight), None if rows.bias is None else arranged(rows.bias))
