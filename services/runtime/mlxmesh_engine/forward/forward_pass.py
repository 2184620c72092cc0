"""The interface of a model's forward pass, and a pass over rows of unequal length."""

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import BatchCache


class Forward(Protocol):
    """A language model: token ids (batch, length) to scores (batch, length, vocab)."""

    def __call__(self, inputs: mx.array, *, cache: list[Any]) -> mx.array: ...


def feed(model: Forward, rows: Sequence[Sequence[int]], cache: BatchCache) -> mx.array:
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
