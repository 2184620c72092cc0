"""The whole state of one sequence in mlx-lm's caches, for models whose caches cannot be cut.

A window forgets its first tokens, and a recurrent state cannot go back: only the state after
exactly the tokens that it has seen can be used again.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    RotatingKVCache,
)

from mlxmesh_engine.evaluation import evaluate_async

# Their `state` is all that they hold, except between `prepare` and `finalize`.
_KNOWN = (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    RotatingKVCache,
)


@dataclass(frozen=True, slots=True)
class RowState:
    """For each layer the state of mlx-lm's cache for one sequence: arrays, numbers and names."""

    layers: tuple[Any, ...]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in arrays_of(self.layers))

    def restore(self, layers: Sequence[Any]) -> None:
        """Sets empty caches for one sequence; they share nothing that they change in place."""
        for layer, state in zip(layers, self.layers, strict=True):
            layer.state = deepcopy(state)


def supported(layers: Iterable[Any]) -> bool:
    """Whether `copied_row` works for these caches."""
    return all(
        supported(cast("Any", layer).caches) if type(layer) is CacheList else type(layer) in _KNOWN
        for layer in layers
    )


def copied_row(layers: Sequence[Any], row: int, *, max_bytes: int) -> RowState | None:
    """Copies a row, and starts the computation of the copy; None if it exceeds max_bytes."""
    state = RowState(tuple(_map(mx.contiguous, _single(layer, row).state) for layer in layers))
    if state.nbytes > max_bytes:
        return None
    # Now: until it is evaluated, the copy keeps all rows in memory.
    evaluate_async(arrays_of(state.layers))
    return state


def arrays_of(state: Any) -> Iterator[mx.array]:
    """All arrays of a nested state, in order."""
    if isinstance(state, mx.array):
        yield state
    elif isinstance(state, list | tuple):
        for part in cast("list[Any]", state):
            yield from arrays_of(part)


def _single(layer: Any, row: int) -> Any:
    """The row as a cache for one sequence, which may share arrays with the layer."""
    kind = cast("Any", type(layer))
    empty = layer.empty()
    if kind is CacheList:
        return CacheList(*(_single(each, row) for each in layer.caches))
    if kind is ArraysCache:
        return _single_arrays(layer, row)
    if kind is BatchKVCache:
        return KVCache() if empty else layer.extract(row)
    if kind is BatchRotatingKVCache:
        return RotatingKVCache(layer.max_size) if empty else layer.extract(row)
    if kind is KVCache and not empty:
        single: Any = KVCache()
        single.state = (*layer.keys_and_values(), layer.offset)
        return single
    return layer


def _single_arrays(layer: Any, row: int) -> Any:
    single: Any = ArraysCache(len(layer.cache))
    single.cache = [None if each is None else each[row : row + 1] for each in layer.cache]
    return single


def _map(function: Any, state: Any) -> Any:
    if isinstance(state, mx.array):
        return function(state)
    if isinstance(state, list | tuple):
        parts = cast("list[Any]", state)
        return type(parts)(_map(function, part) for part in parts)
    return state
