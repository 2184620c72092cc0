"""Reading prompts into caches, in slices."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq

import mlx.core as mx

from mlxmesh_engine.evaluation import start_computing
from mlxmesh_engine.kv_cache import BatchCache, RowCache
from mlxmesh_engine.loader import LoadedModel
from mlxmesh_engine.prefix_store import PrefixStore
from mlxmesh_engine.request import SequenceKey
from mlxmesh_engine.scheduler import PrefillSlice

# Prompts are read together only where padding wastes less than half of the work.
_MOST_PADDED = 2


class Prefill:
    """Keeps the caches of prompts that were read in part."""

    def __init__(self, loaded: LoadedModel, prefixes: PrefixStore) -> None:
        self._model = loaded.model
        self._prefixes = prefixes
        self._taken: dict[SequenceKey, RowCache] = {}
        self._partial: dict[SequenceKey, BatchCache] = {}

    @property
    def kv_bytes(self) -> int:
        return sum(cache.nbytes for cache in self._partial.values())

    def forget(self, key: SequenceKey) -> None:
        self._partial.pop(key, None)
        self._taken.pop(key, None)

    def begin(self, slices: Seq[PrefillSlice]) -> None:
        """Takes hold of the known prefixes, before reading others' prompts displaces them."""
        for slice_ in slices:
            if slice_.first and slice_.start:
                known = self._prefixes.take(slice_.active.tokens[: slice_.start])
                assert known is not None
                self._taken[slice_.active.key] = known

    def read(self, slices: Seq[PrefillSlice]) -> BatchCache:
        """Reads one group of `groups`; returns the cache that holds its tokens, row for row.

        The cache of a prompt that is not done yet is kept here for its next slice.
        """
        first = slices[0]
        cache = self._partial.get(first.active.key) or self._started(slices)
        if first.count:
            self._forward([slice_.token_ids for slice_ in slices], cache)
        if first.start + first.count < first.active.prefill_tokens:
            self._partial[first.active.key] = cache
        else:
            self.forget(first.active.key)
        return cache

    def _started(self, slices: Seq[PrefillSlice]) -> BatchCache:
        known = [self._taken.pop(slice_.active.key, None) for slice_ in slices]
        return BatchCache.starting_with(self._model, known)

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
    """Slices to read together: all of prompts of similar length; anything else is read alone."""
    group: list[PrefillSlice] = []
    for slice_ in sorted(slices, key=lambda each: (each.start, each.count)):
        if group and not all(_alike(each, slice_) for each in group):
            yield group
            group = []
        group.append(slice_)
    if group:
        yield group


def _alike(one: PrefillSlice, other: PrefillSlice) -> bool:
    """Whether both read all that is left, as much or nearly, after as much or nearly."""
    return (
        one.whole_prompt
        and other.whole_prompt
        and _near(one.count, other.count)
        and _near(one.start + one.count, other.start + other.count)
    )


def _near(one: int, other: int) -> bool:
    return max(one, other) <= _MOST_PADDED * min(one, other)
