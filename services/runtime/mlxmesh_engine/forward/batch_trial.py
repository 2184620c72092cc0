"""Tests at load how a model can be batched: batched scores must equal those of each row alone.

mlx-lm's batched caches do not work with all of its models. Gemma 2 broadcasts the mask of a padded
batch over its heads, without an error if there are as many rows as heads; recurrent states absorb
padding; some caches cannot be batched at all.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache

from mlxmesh_engine.cache.kv_cache import BatchCache, Batching
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.forward_pass import MlxModel, feed
from mlxmesh_shared.errors import FeatureNotSupported

# Prompts of unequal lengths; the last token of each is left for the decode step.
_LENGTHS = (2, 3, 5)
_MAX_ROWS = 16
# Relative to the spread of the scores; wrong scores were off by 0.1 and more. Narrow types round
# differently in batches, and rounding may route a token to another expert: with them, a batching
# fails only if all tries differ.
_TOLERANCE = 0.01
_NARROW_TOLERANCE = 0.05
_NARROW_TRIES = 3

_log = logging.getLogger(__name__)


class BatchTrial:
    """Tests one loaded model; one row alone determines `vocab_size` and `token_bytes`."""

    def __init__(self, model: MlxModel, *, narrow: bool, kv_bits: int | None = None) -> None:
        """kv_bits: of quantized keys and values; None for full ones.

        Raises: FeatureNotSupported if the model cannot compute even one row.
        """
        self._model = model
        self._kv_bits = kv_bits
        self._tolerance = _NARROW_TOLERANCE if narrow else _TOLERANCE
        self._tries = _NARROW_TRIES if narrow else 1
        self._cache = self._empty(1, Batching.ALONE)
        try:
            scores = self._scores_alone([0])
        except Exception as error:
            raise FeatureNotSupported(
                f"this model cannot run on this device: {type(error).__name__}: {error}"
            ) from error
        self.vocab_size = int(scores.shape[-1])
        # For a cache that drops or merges tokens this is an upper bound.
        self.token_bytes = self._cache.token_bytes

    def probe(self) -> mx.array:
        """The scores (vocab,) after a few tokens of one row."""
        return self._scores_alone(list(self._rows(1))[-1])

    def best(self) -> Batching:
        """The batching with the most rows per pass that does not change the scores."""
        for batching in self._candidates():
            if problem := self._problem(batching):
                _log.info("prompts cannot be batched (%s): %s", batching.value, problem)
            else:
                return batching
        _log.warning("mlx-lm cannot batch this model exactly: its sequences run one after another")
        return Batching.ALONE

    def _candidates(self) -> Iterator[Batching]:
        caches = list(_leaves(self._cache.layers))
        if self._kv_bits is not None:
            yield Batching.TOGETHER
            return
        if not all(hasattr(cache, "merge") for cache in caches):
            return
        if all(type(cache) in (KVCache, RotatingKVCache) for cache in caches):
            yield Batching.TOGETHER
        yield Batching.EQUAL_LENGTHS

    def _problem(self, batching: Batching) -> str:
        """Why this batching must not be used; empty if it may be."""
        try:
            differs = all(self._differs(batching, 1 + 10 * at) for at in range(self._tries))
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            return f"{type(error).__name__}: {error}"
        return "the scores differ from those of each row alone" if differs else ""

    def _differs(self, batching: Batching, first_id: int) -> bool:
        rows = list(self._rows(first_id))
        alone = [self._scores_alone(row) for row in rows]
        return any(
            difference(alone[index % len(rows)], batched) > self._tolerance
            for count in self._row_counts()
            for index, batched in enumerate(self._scores_batched(_cycled(rows, count), batching))
        )

    def _rows(self, first_id: int) -> Iterator[list[int]]:
        for length in _LENGTHS:
            yield [(first_id + at) % self.vocab_size for at in range(length)]
            first_id += length

    def _row_counts(self) -> list[int]:
        """Two and three rows, and as many rows as the caches have heads."""
        heads = {array.shape[1] for array in self._cache.arrays() if array.ndim == 4}
        return sorted({2, 3} | {count for count in heads if 1 < count <= _MAX_ROWS})

    def _scores_alone(self, row: list[int]) -> mx.array:
        self._cache = self._empty(1, Batching.ALONE)
        scores = feed(self._model, [row], self._cache)[0, -1].astype(mx.float32)
        evaluate([scores, *self._cache.arrays()])
        return scores

    def _scores_batched(self, rows: Sequence[list[int]], batching: Batching) -> list[mx.array]:
        """Prefills all rows but the last as the batching allows, then adds the last one."""
        first, *later = self._prefilled(rows, batching)
        for cache in later:
            first.extend(cache)
        scores = feed(self._model, [row[-1:] for row in rows], first)[:, -1].astype(mx.float32)
        evaluate([scores])
        return list(scores)

    def _prefilled(self, rows: Sequence[list[int]], batching: Batching) -> Iterator[BatchCache]:
        *early, last = rows
        together = batching is Batching.TOGETHER and len(early) > 1
        for group in ([early] if together else [[row] for row in early]) + [[last]]:
            cache = self._empty(len(group), batching)
            feed(self._model, [row[:-1] for row in group], cache)
            yield cache

    def _empty(self, rows: int, batching: Batching) -> BatchCache:
        return BatchCache.empty(self._model, rows, batching, self._kv_bits)


def _cycled(rows: Sequence[list[int]], count: int) -> list[list[int]]:
    return [rows[index % len(rows)] for index in range(count)]


def difference(alone: Any, batched: Any) -> float:
    """Relative to the spread of the scores; equal infinities and NaNs count as equal."""
    expected, actual = np.array(alone, np.float64), np.array(batched, np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], actual[~finite], equal_nan=True):
        return math.inf
    gap = np.linalg.norm(expected[finite] - actual[finite])
    centered = expected[finite] - expected[finite].mean() if finite.any() else np.zeros(1)
    spread = np.linalg.norm(centered)
    return float(gap / (spread + 1e-6)) if np.isfinite(gap) else math.inf


def _leaves(caches: Sequence[Any]) -> Iterator[Any]:
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from _leaves(cast("Sequence[Any]", cast("Any", cache).caches))
        else:
            yield cache
