"""The interface of a model's forward pass, and its implementation by a model of mlx-lm."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import mlx.core as mx

from mlxmesh_engine.adapters.layers import AdaptableLayers
from mlxmesh_engine.cache.kv_cache import BatchCache, Batching, RowsCache
from mlxmesh_engine.evaluation import evaluate, evaluate_async
from mlxmesh_engine.forward.adaptable_linears import PROBED_TOKENS
from mlxmesh_engine.forward.adapted_linears import AdaptedLinears
from mlxmesh_engine.scheduling.images import PromptImages


class Forward(Protocol):
    """A language model and the kind of cache that it needs."""

    @property
    def asynchronous(self) -> bool:
        """Whether `decode` and `prefill` return before they have computed."""
        ...

    @property
    def interruptible(self) -> bool:
        """Whether a pass ends early when that is wanted."""
        ...

    @property
    def adapters(self) -> AdaptableLayers:
        """The layers that add LoRA adapters; `select` says to which rows."""
        ...

    def interrupt_when(self, wanted: Callable[[], bool] | None) -> None:
        """From now on passes raise `Interrupted` once it is wanted, and leave their rows unchanged.

        None for never; a pass that cannot be interrupted runs to its end.
        """
        ...

    def new_cache(
        self, prefixes: Sequence[Any], images: Sequence[PromptImages | None] = ()
    ) -> RowsCache:
        """A cache with a row that starts with each of these stored rows; None for an empty row.

        images: those of each row's prompt; only a model that sees gets other ones than None.
        """
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

    def decode_several(self, rows: Sequence[Sequence[int]], cache: Any) -> mx.array:
        """As `decode` for several tokens of each row, of as many each unless rows are packed.

        Returns the scores (tokens, vocab), one row after the other.
        """
        ...


class MlxModel(Protocol):
    """A model of mlx-lm: token ids (rows, length) to scores (rows, length, vocab)."""

    def __call__(self, inputs: mx.array, *, cache: list[Any]) -> mx.array: ...


class MlxForward:
    """mlx-lm's own forward pass; implements `Forward`."""

    asynchronous = True
    interruptible = False

    def __init__(self, model: MlxModel, batching: Batching, kv_bits: int | None = None) -> None:
        """kv_bits: of quantized keys and values; None for full ones."""
        self._model = model
        self._batching = batching
        self._kv_bits = kv_bits
        self.adapters = AdaptedLinears(model, self._probe)

    def interrupt_when(self, wanted: Callable[[], bool] | None) -> None:
        """A launched graph cannot be stopped."""

    def new_cache(
        self, prefixes: Sequence[Any], images: Sequence[PromptImages | None] = ()
    ) -> BatchCache:
        return BatchCache.from_rows(self._model, prefixes, self._batching, self._kv_bits)

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

    def decode_several(self, rows: Sequence[Sequence[int]], cache: BatchCache) -> mx.array:
        scores = self._model(mx.array([list(row) for row in rows], mx.uint32), cache=cache.layers)
        return mx.flatten(scores, 0, 1)

    def _probe(self) -> Iterator[None]:
        """Passes of one row, one after another."""
        cache = BatchCache.empty(self._model, 1, Batching.ALONE)
        for tokens in PROBED_TOKENS:
            scores = feed(self._model, [[0] * tokens], cache)
            evaluate([scores, *cache.arrays()])
            yield


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
