"""The passes that all ranks of a group compute together, each on its part of the model.

Every rank must start the same exchanges in the same order, so that each pass evaluates the same
arrays on every rank before anything else depends on them.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import BatchCache
from mlxmesh_engine.evaluation import evaluate_async
from mlxmesh_engine.forward.forward_pass import MlxForward
from mlxmesh_engine.groups.ring import Ring, all_sum


class RingForward:
    """mlx-lm's pass over a divided model."""

    def __init__(self, forward: MlxForward, ring: Ring) -> None:
        self._forward = forward
        self._ring = ring

    def new_cache(self, prefixes: Sequence[Any]) -> BatchCache:
        return self._forward.new_cache(prefixes)

    def prefill(self, rows: Sequence[Sequence[int]], cache: BatchCache) -> None:
        self._forward.prefill(rows, cache)

    def decode(self, inputs: mx.array | None, cache: BatchCache) -> mx.array:
        """inputs: the tokens (rows,) at rank 0; None elsewhere, where the ring brings them."""
        own = mx.zeros((cache.rows,), mx.uint32) if inputs is None else inputs
        scores = self._forward.decode(all_sum(own, self._ring), cache)
        evaluate_async([scores])
        return scores

    def scores(self, rows: Sequence[Sequence[int]], cache: BatchCache) -> list[mx.array]:
        scores = self._forward.scores(rows, cache)
        evaluate_async(scores)
        return scores
