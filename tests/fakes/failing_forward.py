"""A forward pass that raises for some inputs, as MLX might."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx

from mlxmesh_engine.forward.forward_pass import Forward

Rows = Sequence[Sequence[int]]


class FailingForward:
    """Raises where `fails_at(rows)` is true, after the caches have advanced."""

    def __init__(
        self, forward: Forward, fails_at: Callable[[Rows], bool], error: Exception
    ) -> None:
        self._forward = forward
        self._fails_at = fails_at
        self._error = error
        self.asynchronous = forward.asynchronous
        self.interruptible = forward.interruptible
        self.interrupt_when = forward.interrupt_when
        self.new_cache = forward.new_cache
        self.adapters = forward.adapters

    def prefill(self, rows: Rows, cache: Any) -> None:
        self._forward.prefill(rows, cache)
        self._check(rows)

    def decode(self, inputs: mx.array, cache: Any) -> mx.array:
        scores = self._forward.decode(inputs, cache)
        self._check([[token] for token in cast("list[int]", cast("Any", inputs).tolist())])
        return scores

    def scores(self, rows: Rows, cache: Any) -> list[mx.array]:
        scores = self._forward.scores(rows, cache)
        self._check(rows)
        return scores

    def _check(self, rows: Rows) -> None:
        if self._fails_at(rows):
            raise self._error
