"""Reading prompts into caches, in slices."""

from collections.abc import Iterator, Sequence

from mlxmesh_engine.cache.kv_cache import BatchCache, RowCache
from mlxmesh_engine.cache.prefix_store import PrefixStore
from mlxmesh_engine.evaluation import start_computing
from mlxmesh_engine.forward.forward_pass import feed
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.batching import Batching
from mlxmesh_engine.scheduling.request import SequenceKey
from mlxmesh_engine.scheduling.scheduler import PrefillSlice

# Prompts are read together only where padding wastes less than half of the work.
_MAX_PADDED = 2


class Prefill:
    """Keeps the caches of prompts that were read in part."""

    def __init__(self, loaded: LoadedModel, prefixes: PrefixStore) -> None:
        self._model = loaded.model
        self._batching = loaded.batching
        self._prefixes = prefixes
        self._taken: dict[SequenceKey, RowCache] = {}
        self._partial: dict[SequenceKey, BatchCache] = {}

    @property
    def kv_bytes(self) -> int:
        return sum(cache.nbytes for cache in self._partial.values())

    def forget(self, key: SequenceKey) -> None:
        self._partial.pop(key, None)
        self._taken.pop(key, None)

    def begin(self, slices: Sequence[PrefillSlice]) -> None:
        """Takes hold of the known prefixes, before reading others' prompts displaces them."""
        for slice_ in slices:
            if slice_.first and slice_.start:
                known = self._prefixes.take(slice_.active.tokens[: slice_.start])
                assert known is not None
                self._taken[slice_.active.key] = known

    def read(self, slices: Sequence[PrefillSlice]) -> BatchCache:
        """Reads one group of `groups`; returns the cache that holds its tokens, row for row.

        The cache of a prompt that is not done yet is kept here for its next slice.
        """
        first = slices[0]
        cache = self._partial.get(first.active.key) or self._started(slices)
        if first.count:
            # The logits are never computed: only the cache is evaluated.
            feed(self._model, [slice_.token_ids for slice_ in slices], cache)
            start_computing(cache.arrays())
        if first.start + first.count < first.active.prefill_tokens:
            self._partial[first.active.key] = cache
        else:
            self.forget(first.active.key)
        return cache

    def _started(self, slices: Sequence[PrefillSlice]) -> BatchCache:
        known = [self._taken.pop(slice_.active.key, None) for slice_ in slices]
        return BatchCache.starting_with(self._model, known, self._batching)


def groups(slices: Sequence[PrefillSlice], batching: Batching) -> Iterator[list[PrefillSlice]]:
    """Slices to prefill in one pass: of whole prompts of close (or equal) length."""
    group: list[PrefillSlice] = []
    for slice_ in sorted(slices, key=lambda each: (each.start, each.count)):
        if group and not all(_fit_together(each, slice_, batching) for each in group):
            yield group
            group = []
        group.append(slice_)
    if group:
        yield group


def _fit_together(one: PrefillSlice, other: PrefillSlice, batching: Batching) -> bool:
    if one.active.isolated or other.active.isolated or batching is Batching.ALONE:
        return False
    if not (one.whole_prompt and other.whole_prompt):
        return False
    if batching is Batching.EQUAL_LENGTHS:
        return (one.start, one.count) == (other.start, other.count)
    return _near(one.count, other.count) and _near(one.start + one.count, other.start + other.count)


def _near(one: int, other: int) -> bool:
    return max(one, other) <= _MAX_PADDED * min(one, other)
