"""The other ranks' side of a group: repeats rank 0's operations on its own part of the model."""

from typing import Any, assert_never

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import BatchCache
from mlxmesh_engine.groups.operations import (
    ConcatenateRows,
    CopyRows,
    DecodeRows,
    ExtendCache,
    FilterCache,
    Free,
    NewCache,
    Operation,
    PrefillRows,
    ScoreRows,
    StoreState,
    StoreTokens,
    TruncateRow,
)
from mlxmesh_engine.groups.ring_forward import RingForward

# As at rank 0: MLX keeps freed buffers of sizes that never recur.
_DECODES_BETWEEN_CACHE_CLEARS = 512
# Rank 0 has checked the limit.
_ANY_BYTES = 2**62


class Follower:
    """Used on the MLX thread. It never samples, and decides nothing."""

    def __init__(self, forward: RingForward) -> None:
        self._forward = forward
        self._caches: dict[int, BatchCache] = {}
        self._rows: dict[int, Any] = {}
        self._decodes = 0

    @property
    def held(self) -> int:
        """How many caches and stored rows it has."""
        return len(self._caches) + len(self._rows)

    def apply(self, operation: Operation) -> None:
        """Raises: whatever computing raises; then this rank no longer matches the others."""
        match operation:
            case DecodeRows(cache):
                self._decode(self._caches[cache])
            case PrefillRows(cache, rows):
                self._forward.prefill(rows, self._caches[cache])
            case ScoreRows(cache, rows):
                self._forward.scores(rows, self._caches[cache])
            case StoreTokens() | StoreState() | TruncateRow() | ConcatenateRows():
                self._store(operation)
            case NewCache(number, rows):
                prefixes = [self._rows[row] if row else None for row in rows]
                self._caches[number] = self._forward.new_cache(prefixes)
            case CopyRows(cache, rows, number):
                self._caches[number] = self._caches[cache].copy_rows(rows)
            case ExtendCache(cache, other):
                self._caches[cache].extend(self._caches[other])
            case FilterCache(cache, rows):
                self._caches[cache].filter(rows)
            case Free(numbers):
                self._free(numbers)
            case _ as never:
                assert_never(never)

    def _decode(self, cache: BatchCache) -> None:
        self._forward.decode(None, cache)
        self._decodes += 1
        if self._decodes % _DECODES_BETWEEN_CACHE_CLEARS == 0:
            mx.clear_cache()

    def _store(self, operation: StoreTokens | StoreState | TruncateRow | ConcatenateRows) -> None:
        match operation:
            case StoreTokens(cache, row, start, stop, _):
                stored: object = self._caches[cache].copy_row(row, start, stop)
            case StoreState(cache, row, _):
                stored = self._caches[cache].copy_state(row, max_bytes=_ANY_BYTES)
            case TruncateRow(row, tokens, _):
                stored = self._rows[row].truncated(tokens)
            case ConcatenateRows(rows, _):
                first, *later = [self._rows[row] for row in rows]
                stored = first.concatenated(later)
        self._rows[operation.number] = stored

    def _free(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            self._caches.pop(number, None)
            self._rows.pop(number, None)
