"""Turns what the prefix cache holds into plain bytes and back; on the MLX thread."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cache.kv_cache import KeysValues, StoredLayers
from mlxmesh_engine.cache.row_state import RowState
from mlxmesh_engine.cpu.cache import CachedTokens
from mlxmesh_engine.prefixes.host_row import HostRow


class Codec(Protocol):
    """One kind of stored row."""

    @property
    def layout(self) -> str:
        """Changes whenever older files could not be read as before."""
        ...

    def to_host(self, stored: Any) -> HostRow:
        """Shares the memory of `stored`; waits until it is computed."""
        ...

    def from_host(self, row: HostRow) -> Any: ...


class CachedTokensCodec:
    """Of the forward pass for CPUs."""

    layout = "cpu-tokens-1"

    def to_host(self, stored: CachedTokens) -> HostRow:
        arrays = tuple(array.view(f"u{array.itemsize}") for array in stored.arrays)
        return HostRow(arrays, tuple(array.dtype.name for array in stored.arrays))

    def from_host(self, row: HostRow) -> CachedTokens:
        named = zip(row.arrays, row.types, strict=True)
        return CachedTokens(tuple(np.ascontiguousarray(each).view(type_) for each, type_ in named))


class StoredLayersCodec:
    """Of mlx-lm's caches that can be cut."""

    layout = "mlx-tokens-1"

    def to_host(self, stored: StoredLayers) -> HostRow:
        arrays = [array for layer in stored.layers for array in (layer.keys, layer.values)]
        return HostRow(tuple(_bytes_of(each) for each in arrays), tuple(map(_type_of, arrays)))

    def from_host(self, row: HostRow) -> StoredLayers:
        arrays = [*_arrays_from(row)]
        pairs = zip(arrays[::2], arrays[1::2], strict=True)
        return StoredLayers(tuple(KeysValues(keys, values) for keys, values in pairs))


class RowStateCodec:
    """Of mlx-lm's other caches."""

    layout = "mlx-state-1"

    def to_host(self, stored: RowState) -> HostRow:
        arrays: list[mx.array] = []

        def replaced(state: Any) -> Any:
            if isinstance(state, mx.array):
                arrays.append(state)
                return {"array": len(arrays) - 1}
            if isinstance(state, list | tuple):
                return [replaced(part) for part in cast("list[Any]", state)]
            return state

        structure = replaced(stored.layers)
        types = tuple(map(_type_of, arrays))
        return HostRow(tuple(_bytes_of(each) for each in arrays), types, structure)

    def from_host(self, row: HostRow) -> RowState:
        arrays = [*_arrays_from(row)]

        def restored(state: Any) -> Any:
            if isinstance(state, dict):
                return arrays[cast("dict[str, int]", state)["array"]]
            if isinstance(state, list):
                return [restored(part) for part in cast("list[Any]", state)]
            return state

        return RowState(tuple(restored(row.structure)))


def _type_of(array: mx.array) -> str:
    return str(array.dtype).removeprefix("mlx.core.")


def _bytes_of(array: mx.array) -> NDArray[Any]:
    integers = np.dtype(f"u{array.itemsize}")  # NumPy does not know bfloat16
    if array.size == 0:
        return np.empty(array.shape, integers)
    return np.frombuffer(cast("Any", array), integers).reshape(array.shape)


def _arrays_from(row: HostRow) -> Iterator[mx.array]:
    view = cast("Callable[[mx.array, mx.Dtype], mx.array]", mx.view)
    for array, type_ in zip(row.arrays, row.types, strict=True):
        yield view(mx.array(cast("Any", array)), getattr(mx, type_ if type_ != "bool" else "bool_"))
