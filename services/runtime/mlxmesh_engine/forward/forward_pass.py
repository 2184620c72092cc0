"""The interface of a model's forward pass, and its implementation by a model of mlx-lm."""

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import BatchCache, Batching, RowsCache
from mlxmesh_engine.evaluation import evaluate_async


class Forward(Protocol):
    """A language model and the kind of cache that it needs."""

    @property
    def asynchronous(self) -> bool:
        """Whether `decode` and `prefill` return before they have computed."""
        ...

    def new_cache(self, prefixes: Sequence[Any]) -> RowsCache:
        """A cache with a row that starts with each of these stored rows; None for an empty row."""
        ...

    def prefill(self, rows: Sequence[Sequence[int]], cache: Any) -> None:
        """Appends each row's tokens to its row of the cache."""
        ...

    def decode(self, inputs: mx.array, cache: Any) -> mx.array:
        """Appends one token (rows,) to each row; returns the scores (rows, vocab) after it."""
        ...

    def scores(self, rows: Sequence[Sequence[int]], cache: Any) -> list[mx.array]:
        """As `prefill`; returns each row's scores (its length, vocab)."""
        ...


class MlxModel(Protocol):
    """A model of mlx-lm: token ids (rows, length) to scores (rows, length, vocab)."""

    def __call__(self, inputs: mx.array, *, cache: list[Any]) -> mx.array: ...


class MlxForward:
    """mlx-lm's own forward pass; implements `Forward`."""

    asynchronous = True

    def __init__(self, model: MlxModel, batching: Batching) -> None:
        self._model = model
        self._batching = batching

    def new_cache(self, prefixes: Sequence[Any]) -> BatchCache:
        return BatchCache.from_rows(self._model, prefixes, self._batching)

    def prefill(self, rows: Sequence[Sequence[int]], cache: BatchCache) -> None:
        # The scores are never evaluated, only the cache is.
        feed(self._model, rows, cache)
        evaluate_async(cache.arrays())

    def decode(self, inputs: mx.array, cache: BatchCache) -> mx.array:
        return self._model(inputs[:, None], cache=cache.layers)[:, -1, :]

    def scores(self, rows: Sequence[Sequence[int]], cache: BatchCache) -> list[mx.array]:
        scores = feed(self._model, rows, cache)
        evaluate_async(cache.arrays())
        return [scores[at, : len(row)] for at, row in enumerate(rows)]


def feed(model: MlxModel, rows: Sequence[Sequence[int]], cache: BatchCache) -> mx.array:
    """Appends each row's tokens to its row of the cache; shorter rows are padded on the right.

    Returns scores (batch, longest, vocab); the scores of padding are meaningless.
    """
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    padded = min(lengths) < longest
    if padded:
        cache.prepare(lengths)
    tokens = mx.array([[*row, *[0] * (longest - len(row))] for row in rows], mx.uint32)
    scores = model(tokens, cache=cache.layers)
    if padded:
        cache.finalize()
    return scores
