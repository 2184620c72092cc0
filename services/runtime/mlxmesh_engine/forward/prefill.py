"""Prefills prompts into caches, in slices; computes log-probabilities of prompts that need them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import Batching, RowsCache, StoredRow
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.prefixes.store import PrefixStore
from mlxmesh_engine.sampling.logprobs import LaunchedLogprobs, compute_logprobs
from mlxmesh_engine.scheduling.prefill_plan import PrefillSlice
from mlxmesh_engine.scheduling.request import Logprobs, SequenceKey
from mlxmesh_engine.scheduling.sequence import ActiveSequence

# Prompts share a pass only if padding wastes less than half of the work.
_MAX_LENGTH_RATIO = 2
# The scores of one pass, in float32, take 128 MiB at most.
_MAX_SCORES = 2**25


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A cache with a row for each slice, and the log-probabilities of prompt tokens of each."""

    cache: RowsCache
    logprobs: list[Logprobs | None]


class Prefill:
    """Owns the caches of partially prefilled prompts."""

    def __init__(self, loaded: LoadedModel, prefixes: PrefixStore) -> None:
        self._model = loaded.model
        self._prefixes = prefixes
        self._batching = loaded.batching
        self._max_scored_tokens = max(1, _MAX_SCORES // loaded.vocab_size)
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
                active = slice_.active
                namespace = active.request.prefix_namespace
                tokens = active.prefix_ids_of(active.tokens[: slice_.start])
                prefix = self._prefixes.get(tokens, namespace)
                assert prefix is not None
                self._loaded_prefixes[active.key] = prefix

    def groups(self, slices: Sequence[PrefillSlice]) -> Iterator[list[PrefillSlice]]:
        """The slices in groups of one pass each."""
        return group_slices(slices, self._batching, max_scored_tokens=self._max_scored_tokens)

    def run(self, slices: Sequence[PrefillSlice]) -> Prefilled:
        """Prefills one of the groups.

        The cache of a prompt that is not complete is retained for its next slice.
        """
        first = slices[0]
        cache = self._partial.get(first.active.key) or self._new_cache(slices)
        self._model.adapters.select([slice_.active.slot for slice_ in slices])
        logprobs = self._append(slices, cache)
        if first.start + first.count < first.active.prefill_tokens:
            self._partial[first.active.key] = cache
        else:
            self.remove(first.active.key)
        return Prefilled(cache, logprobs)

    def _append(self, slices: Sequence[PrefillSlice], cache: RowsCache) -> list[Logprobs | None]:
        """Appends the slices' tokens to their rows; returns the log-probabilities of each."""
        if not any(slice_.scored for slice_ in slices):
            if any(slice_.count for slice_ in slices):
                self._model.prefill([slice_.token_ids for slice_ in slices], cache)
            return [None] * len(slices)
        if len(slices) > 1:
            return [*self._score(slices, cache)]
        return [reduce(Logprobs.followed_by, self._append_pieces(slices[0], cache))]

    def _append_pieces(self, slice_: PrefillSlice, cache: RowsCache) -> Iterator[Logprobs]:
        """In pieces, so that only the scores of one are in memory."""
        for piece in _pieces(slice_, self._max_scored_tokens):
            if piece.scored:
                yield from self._score([piece], cache)
            else:
                self._model.prefill([piece.token_ids], cache)

    def _score(self, slices: Sequence[PrefillSlice], cache: RowsCache) -> list[Logprobs]:
        scores = self._model.scores([slice_.token_ids for slice_ in slices], cache)
        launched = [_launch(*each) for each in zip(slices, scores, strict=True)]
        evaluate([array for each in launched for array in each.arrays()])
        return [each.joined() for each in launched]

    def _new_cache(self, slices: Sequence[PrefillSlice]) -> RowsCache:
        prefixes = [self._loaded_prefixes.pop(slice_.active.key, None) for slice_ in slices]
        images = [slice_.active.request.images for slice_ in slices]
        return self._model.new_cache(prefixes, images)


def _launch(slice_: PrefillSlice, scores: mx.array) -> LaunchedLogprobs:
    """Launches the log-probability of the token after each scored one. scores: (count, vocab)."""
    scored, options = slice_.scored, slice_.active.request.logprobs
    assert options is not None
    following = slice_.active.tokens[scored.start + 1 : scored.stop + 1]
    own = scores[scored.start - slice_.start : scored.stop - slice_.start]
    return compute_logprobs(own, mx.array(following, mx.uint32), options.top)


def _pieces(slice_: PrefillSlice, max_scored_tokens: int) -> Iterator[PrefillSlice]:
    """Cuts a slice before and after the tokens that are scored, and those into bounded pieces."""
    scored, stop = slice_.scored, slice_.start + slice_.count
    inner = range(scored.start, scored.stop, max_scored_tokens)
    bounds = sorted({slice_.start, *inner, scored.stop, stop})
    for start, end in pairwise(bounds):
        yield PrefillSlice(slice_.active, start, end - start)


def group_slices(
    slices: Sequence[PrefillSlice], batching: Batching, *, max_scored_tokens: int = 0
) -> Iterator[list[PrefillSlice]]:
    """Groups the slices of one pass each: whole prompts of similar (or equal) length.

    A group whose scores are needed has at most max_scored_tokens with padding, or is one slice.
    """
    group: list[PrefillSlice] = []
    for slice_ in sorted(slices, key=lambda each: (each.start, each.count)):
        full = slice_.scored and (len(group) + 1) * slice_.count > max_scored_tokens
        if group and (full or not all(_fit_together(each, slice_, batching) for each in group)):
            yield group
            group = []
        group.append(slice_)
    if group:
        yield group


def _fit_together(one: PrefillSlice, other: PrefillSlice, batching: Batching) -> bool:
    if batching is Batching.ALONE or not (_joins(one.active) and _joins(other.active)):
        return False
    if not (one.whole_prompt and other.whole_prompt) or bool(one.scored) != bool(other.scored):
        return False
    if batching is Batching.EQUAL_LENGTHS:
        return (one.start, one.count) == (other.start, other.count)
    if batching is Batching.PACKED:
        return True
    return _similar(one.count, other.count) and _similar(
        one.start + one.count, other.start + other.count
    )


def _joins(active: ActiveSequence) -> bool:
    return not active.isolated and active.request.images is None


def _similar(one: int, other: int) -> bool:
    return max(one, other) <= _MAX_LENGTH_RATIO * min(one, other)
