"""Reading prompts into caches, in slices."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq

import mlx.core as mx

from mlxmesh_engine.evaluation import start_computing
from mlxmesh_engine.kv_cache import BatchCache
from mlxmesh_engine.loader import LoadedModel
from mlxmesh_engine.request import SequenceKey
from mlxmesh_engine.scheduler import PrefillSlice

# Prompts are read together only where padding wastes less than half of the work.
_MOST_PADDED = 2


class Prefill:
    """Keeps the caches of prompts that were read in part."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._partial: dict[SequenceKey, BatchCache] = {}

    @property
    def kv_bytes(self) -> int:
        return sum(cache.nbytes for cache in self._partial.values())

    def forget(self, key: SequenceKey) -> None:
        self._partial.pop(key, None)

    def read(self, slices: Seq[PrefillSlice]) -> BatchCache:
        """Reads one group of `groups`; returns the cache that holds its tokens, row for row.

        The cache of a prompt that is not done yet is kept here for its next slice.
        """
        first = slices[0]
        if len(slices) == 1 and not first.whole_prompt:
            cache = self._partial.get(first.active.key) or BatchCache.empty(self._model, 1)
        else:
            cache = BatchCache.empty(self._model, len(slices))
        if first.count:
            self._forward([slice_.token_ids for slice_ in slices], cache)
        if first.start + first.count < first.active.prefill_tokens:
            self._partial[first.active.key] = cache
        else:
            self.forget(first.active.key)
        return cache

    def _forward(self, rows: list[tuple[int, ...]], cache: BatchCache) -> None:
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        padded = min(lengths) < longest
        if padded:
            cache.prepare(lengths)
        tokens = mx.array([[*row, *[0] * (longest - len(row))] for row in rows], mx.uint32)
        # The logits are never computed: only the cache is evaluated.
        self._model(tokens, cache=cache.layers)
        if padded:
            cache.finalize()
        start_computing(cache.arrays())


def groups(slices: Seq[PrefillSlice]) -> Iterator[list[PrefillSlice]]:
    """Slices to read together: whole prompts of similar length; anything else is read alone."""
    group: list[PrefillSlice] = []
    for slice_ in sorted(slices, key=lambda each: each.count):
        fits = group and slice_.count <= _MOST_PADDED * group[0].count
        if group and not (fits and slice_.whole_prompt and group[0].whole_prompt):
            yield group
            group = []
        group.append(slice_)
    if group:
        yield group
