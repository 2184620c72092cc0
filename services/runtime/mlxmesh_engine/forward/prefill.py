"""Prefills prompts into caches, in slices."""

from collections.abc import Iterator, Sequence

from mlxmesh_engine.cache.kv_cache import Batching, RowsCache, StoredRow
from mlxmesh_engine.cache.prefix_store import PrefixStore
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import SequenceKey
from mlxmesh_engine.scheduling.scheduler import PrefillSlice

# Prompts share a pass only if padding wastes less than half of the work.
_MAX_LENGTH_RATIO = 2


class Prefill:
    """Owns the caches of partially prefilled prompts."""

    def __init__(self, loaded: LoadedModel, prefixes: PrefixStore) -> None:
        self._model = loaded.model
        self._prefixes = prefixes
        self._loaded_prefixes: dict[SequenceKey, StoredRow] = {}
        self._partial: dict[SequenceKey, RowsCache] = {}

    @property
    def kv_bytes(self) -> int:
        return sum(cache.nbytes for cache in self._partial.values())

    def remove(self, key: SequenceKey) -> None:
        self._partial.pop(key, None)
        self._loaded_prefixes.pop(key, None)

    def load_prefixes(self, slices: Sequence[PrefillSlice]) -> None:
        """Gets the cached prefixes of first slices before prefill of others can evict them."""
        for slice_ in slices:
            if slice_.first and slice_.start:
                prefix = self._prefixes.get(slice_.active.tokens[: slice_.start])
                assert prefix is not None
                self._loaded_prefixes[slice_.active.key] = prefix

    def run(self, slices: Sequence[PrefillSlice]) -> RowsCache:
        """Prefills one group of `group_slices`; returns the cache with a row for each slice.

        The cache of a prompt that is not complete is retained for its next slice.
        """
        first = slices[0]
        cache = self._partial.get(first.active.key) or self._new_cache(slices)
        if any(slice_.count for slice_ in slices):
            self._model.prefill([slice_.token_ids for slice_ in slices], cache)
        if first.start + first.count < first.active.prefill_tokens:
            self._partial[first.active.key] = cache
        else:
            self.remove(first.active.key)
        return cache

    def _new_cache(self, slices: Sequence[PrefillSlice]) -> RowsCache:
        prefixes = [self._loaded_prefixes.pop(slice_.active.key, None) for slice_ in slices]
        return self._model.new_cache(prefixes)


def group_slices(
    slices: Sequence[PrefillSlice], batching: Batching
) -> Iterator[list[PrefillSlice]]:
    """Groups the slices of one pass each: whole prompts of similar (or equal) length."""
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
    if batching is Batching.PACKED:
        return True
    return _similar(one.count, other.count) and _similar(
        one.start + one.count, other.start + other.count
    )


def _similar(one: int, other: int) -> bool:
    return max(one, other) <= _MAX_LENGTH_RATIO * min(one, other)
