"""The KV cache of a batch, and its implementation by mlx-lm's batched caches, one per layer."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, Self, cast

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache, make_prompt_cache

from mlxmesh_engine.cache.quantized_layer import BatchQuantizedKVCache
from mlxmesh_engine.cache.row_state import RowState, arrays_of, copied_row, supported
from mlxmesh_engine.evaluation import evaluate_async


class Batching(Enum):
    """How the rows of a batch may go through a model."""

    PACKED = "packed"
    """Rows of any lengths go through in one pass, without padding."""
    TOGETHER = "together"
    """Prompts of similar length are prefilled in one padded pass; all rows decode in one."""
    EQUAL_LENGTHS = "equal lengths"
    """Padding would enter the model's state: only prompts of equal length are prefilled in one."""
    ALONE = "alone"
    """Each row goes through the model alone, with mlx-lm's caches for one sequence."""


class StoredRow(Protocol):
    """The keys and values of one sequence's first tokens, independent of any batch."""

    def truncated(self, tokens: int) -> Self: ...
    def concatenated(self, later: Sequence[Self]) -> Self: ...


class RowsCache(Protocol):
    """The keys and values, or states, of the rows of a batch."""

    @property
    def rows(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def token_bytes(self) -> int:
        """The size of one token of one row."""
        ...

    @property
    def divisible(self) -> bool:
        """Whether each token has its own keys and values: a row can be cut at any token."""
        ...

    def copy_row(self, row: int, start: int, stop: int) -> StoredRow:
        """Copies tokens start to stop of a row of a divisible cache, counted from its end (0)."""
        ...

    @property
    def has_states(self) -> bool:
        """Whether the whole state of a row can be copied, and a row can begin with it."""
        ...

    def copy_state(self, row: int, *, max_bytes: int) -> RowState | None:
        """Copies the whole state of a row; None if it exceeds max_bytes."""
        ...

    def copy_rows(self, rows: Sequence[int]) -> Self:
        """A cache of the same kind with a copy of each of these rows, some of them repeated.

        A row that is served alone is copied alone.
        """
        ...

    def extend(self, other: Any) -> None:
        """Appends the rows of a cache of the same kind, which must not be used again."""
        ...

    def filter(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order."""
        ...

    @property
    def cuttable(self) -> bool:
        """Whether `cut` is possible."""
        ...

    def cut(self, counts: Sequence[int]) -> None:
        """Removes so many of the last tokens of each row."""
        ...


class LayerCache(Protocol):
    """The common interface of mlx-lm's BatchKVCache, BatchRotatingKVCache, ArraysCache, CacheList.

    Source: mlx_lm/models/cache.py, mlx-lm 0.32.2.
    """

    state: Any

    @property
    def nbytes(self) -> int: ...
    def filter(self, batch_indices: list[int]) -> None: ...
    def extend(self, other: "LayerCache") -> None: ...
    def prepare(self, *, lengths: list[int], right_padding: list[int]) -> None: ...
    def finalize(self) -> None: ...


@dataclass(frozen=True, slots=True)
class KeysValues:
    """One layer's keys and values of one sequence's tokens, each (1, heads, tokens, dims)."""

    keys: mx.array
    values: mx.array

    @property
    def state(self) -> tuple[mx.array, mx.array, int]:
        """That of mlx-lm's KVCache."""
        return self.keys, self.values, self.keys.shape[2]

    def truncated(self, tokens: int) -> "KeysValues":
        if tokens == self.keys.shape[2]:
            return self
        return KeysValues(self.keys[:, :, :tokens], self.values[:, :, :tokens])

    def concatenated(self, later: "Sequence[KeysValues]") -> "KeysValues":
        if not later:
            return self
        parts = [self, *later]
        return KeysValues(
            mx.concatenate([part.keys for part in parts], axis=2),
            mx.concatenate([part.values for part in parts], axis=2),
        )


@dataclass(frozen=True, slots=True)
class StoredLayers:
    """One sequence's keys and values, one entry per layer; implements `StoredRow`."""

    layers: tuple[KeysValues, ...]

    def truncated(self, tokens: int) -> "StoredLayers":
        return StoredLayers(tuple(layer.truncated(tokens) for layer in self.layers))

    def concatenated(self, later: "Sequence[StoredLayers]") -> "StoredLayers":
        by_layer = zip(self.layers, *(row.layers for row in later), strict=True)
        return StoredLayers(tuple(first.concatenated(rest) for first, *rest in by_layer))

    def restore(self, layers: Sequence[Any]) -> None:
        """Sets empty caches for one sequence."""
        for layer, stored in zip(layers, self.layers, strict=True):
            layer.state = stored.state


class BatchCache:
    """Implements `RowsCache`; `layers` is the `cache` argument of a model of mlx-lm.

    A row that is served alone has mlx-lm's caches for one sequence, which support everything but
    `extend`, `filter` and padding.
    """

    def __init__(self, layers: list[LayerCache], rows: int) -> None:
        self.layers = layers
        self.rows = rows

    @classmethod
    def empty(
        cls, model: object, rows: int, batching: Batching, kv_bits: int | None = None
    ) -> "BatchCache":
        return cls.from_rows(model, [None] * rows, batching, kv_bits)

    @classmethod
    def from_rows(
        cls,
        model: object,
        rows: Sequence[StoredLayers | RowState | None],
        batching: Batching,
        kv_bits: int | None = None,
    ) -> "BatchCache":
        """A cache whose rows start as copies of these; None for an empty row.

        kv_bits: of quantized keys and values; None for full ones.
        """
        singles = [_single_cache(model, row) for row in rows]
        if kv_bits is not None:
            merged = [of[0].merge(list(of)) for of in zip(*singles, strict=True)]
            return cls([BatchQuantizedKVCache(layer, kv_bits) for layer in merged], len(rows))
        if batching is Batching.ALONE:
            (alone,) = singles
            return cls(alone, 1)
        return cls([of[0].merge(list(of)) for of in zip(*singles, strict=True)], len(rows))

    @property
    def divisible(self) -> bool:
        """Whether each token has its own keys and values: a row can be cut at any token."""
        return all(isinstance(layer, BatchKVCache | KVCache) for layer in self.layers)

    @property
    def token_bytes(self) -> int:
        """The size of one token of one row in the arrays of shape (rows, heads, tokens, dims)."""
        shaped = [array for array in self.arrays() if array.ndim == 4]
        return sum(array.nbytes // (array.shape[0] * array.shape[2]) for array in shaped)

    def copy_row(self, row: int, start: int, stop: int) -> StoredLayers:
        """Copies tokens start to stop of a row of a divisible cache, counted from its end (0)."""
        copied: list[KeysValues] = []
        for layer in self.layers:
            keys, values, *_, end = layer.state
            part = (slice(row, row + 1), slice(None), slice(end + start, end + stop))
            copied.append(KeysValues(mx.contiguous(keys[part]), mx.contiguous(values[part])))
        # Now: until it is evaluated, the copy keeps all rows in memory.
        evaluate_async([array for layer in copied for array in (layer.keys, layer.values)])
        return StoredLayers(tuple(copied))

    @property
    def has_states(self) -> bool:
        """Whether the whole state of a row can be copied, and a row can begin with it."""
        return supported(self.layers)

    def copy_state(self, row: int, *, max_bytes: int) -> RowState | None:
        """Copies the whole state of a row; None if it exceeds max_bytes."""
        return copied_row(self.layers, row, max_bytes=max_bytes)

    def copy_rows(self, rows: Sequence[int]) -> "BatchCache":
        """A cache with a copy of each of these rows; of a row that is served alone only one."""
        # The copies share their arrays until they are changed.
        copied = BatchCache(deepcopy(self.layers), self.rows)
        if list(rows) != list(range(self.rows)):
            copied.filter(rows)
        return copied

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    def arrays(self) -> list[mx.array]:
        """All arrays of the cache, for evaluation."""
        return [*arrays_of([layer.state for layer in self.layers])]

    def extend(self, other: "BatchCache") -> None:
        """Appends the other's rows; the other must not be used again."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.extend(theirs)
        self.rows += other.rows

    def filter(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order."""
        for layer in self.layers:
            layer.filter(list(rows))
        self.rows = len(rows)

    @property
    def cuttable(self) -> bool:
        return all(isinstance(layer, BatchKVCache | KVCache) for layer in self.layers)

    def cut(self, counts: Sequence[int]) -> None:
        """Removes so many of the last tokens of each row; without a copy if all are equal."""
        common = min(counts)
        if max(counts) > common:
            # All rows end at the same place: as far to the left as their padding allows.
            paddings = cast("list[int]", cast("Any", self.layers[0]).left_padding.tolist())
            common = min(padding + count for padding, count in zip(paddings, counts, strict=True))
            shifts = mx.array([count - common for count in counts])
            for layer in self.layers:
                _shift_right(cast("BatchKVCache", layer), shifts)
        for layer in self.layers:
            cast("Any", layer).trim(common)

    def prepare(self, lengths: list[int]) -> None:
        """Announces right-padded input of these true lengths; call `finalize` after it."""
        longest = max(lengths)
        for layer in self.layers:
            layer.prepare(lengths=lengths, right_padding=[longest - n for n in lengths])

    def finalize(self) -> None:
        for layer in self.layers:
            layer.finalize()


def _single_cache(model: object, row: StoredLayers | RowState | None) -> list[Any]:
    layers: list[Any] = make_prompt_cache(cast("Any", model))
    if row is not None:
        row.restore(layers)
    return layers


def _shift_right(layer: BatchKVCache, shifts: mx.array) -> None:
    """Moves the tokens of each row, so that its last ones are beyond the end of the cache."""
    cached = cast("Any", layer)
    places = (mx.arange(cached.keys.shape[2]) - shifts[:, None]) % cached.keys.shape[2]
    places = places[:, None, :, None]
    cached.keys = mx.take_along_axis(cached.keys, places, axis=2)
    cached.values = mx.take_along_axis(cached.values, places, axis=2)
    cached.offset = cached.offset - shifts
    cached.left_padding = cached.left_padding + shifts
