"""Which tokens may be drawn: top_k, top_p and min_p of many rows at once, exactly.

Each option keeps the tokens whose weight reaches a threshold, so all three together keep those that
reach the largest of the thresholds. Ties are kept or dropped together. `top_k` keeps the weights
that reach the k-th largest; `top_p` the smallest such set whose share of the whole reaches p;
`min_p` those of at least min_p times the best.
"""

from collections.abc import Sequence as Seq
from typing import cast

import mlx.core as mx
import numpy as np

from mlxmesh_engine.request import Sampling

_CANDIDATES = 256


class Truncation:
    """The options of one batch's drawn rows, as arrays."""

    def __init__(self, rows: Seq[Sampling], vocab_size: int) -> None:
        ranked = [index for index, row in enumerate(rows) if _cuts_by_rank(row, vocab_size)]
        self._ranked = mx.array(ranked, mx.uint32) if ranked else None
        self._by_rank = RankThreshold([rows[index] for index in ranked], vocab_size)
        self._cuts = bool(ranked) or any(row.min_p > 0 for row in rows)
        self._min_p = _column([row.min_p for row in rows])

    def apply(self, weights: mx.array) -> mx.array:
        """Zeroes what may not be drawn. weights: (batch, vocab), the best of each row 1."""
        if not self._cuts:
            return weights
        threshold = self._min_p
        if self._ranked is not None:
            ranked = self._by_rank.of(weights[self._ranked])
            threshold = mx.array(threshold)
            threshold[self._ranked] = mx.maximum(ranked, threshold[self._ranked])
        return mx.where(weights >= threshold, weights, 0.0)


class RankThreshold:
    """What top_k and top_p ask of the rows that have one of them.

    Sorts the best candidates only. Where a row's top_p reaches beyond them, which only the computed
    weights can tell, all of its weights are sorted after all.
    """

    def __init__(self, rows: Seq[Sampling], vocab_size: int) -> None:
        self._vocab_size = vocab_size
        # A top_k of the whole vocabulary or more keeps all, as 0 does.
        top_k = [row.top_k if row.top_k < vocab_size else 0 for row in rows]
        self._candidates = min(max(_CANDIDATES, *top_k, 0), vocab_size)
        self._cuts_p = any(row.top_p < 1 for row in rows)
        self._top_k = mx.array(np.array(top_k, np.int32)[:, None])
        self._top_p = _column([row.top_p for row in rows])

    def of(self, weights: mx.array) -> mx.array:
        """The least weight (rows, 1) that each row may draw."""
        best = _descending(weights, self._candidates)
        by_k = _reached_by_rank(best, self._top_k)
        if not self._cuts_p:
            return by_k
        goal = mx.where(self._top_p < 1, self._top_p * mx.sum(weights, -1, keepdims=True), 0.0)
        by_p = _reached_by_sum(best, goal)
        if self._candidates < self._vocab_size:
            beyond = mx.sum(best, axis=-1) < goal[:, 0]
            if (short := _true_indices(beyond)) is not None:
                all_of_them = _descending(weights[short], self._vocab_size)
                by_p[short] = _reached_by_sum(all_of_them, goal[short])
        return mx.maximum(by_k, by_p)


def _cuts_by_rank(row: Sampling, vocab_size: int) -> bool:
    return row.top_p < 1 or 0 < row.top_k < vocab_size


def _descending(weights: mx.array, count: int) -> mx.array:
    """The `count` largest of each row, largest first."""
    if count < weights.shape[-1]:
        weights = mx.topk(weights, count, axis=-1)
    return -mx.sort(-weights, axis=-1)


def _reached_by_rank(best: mx.array, rank: mx.array) -> mx.array:
    """The weight at each row's rank, counted from 1; 0 where the rank is 0."""
    kth = mx.take_along_axis(best, mx.maximum(rank - 1, 0), axis=-1)
    return mx.where(rank > 0, kth, 0.0)


def _reached_by_sum(best: mx.array, goal: mx.array) -> mx.array:
    """The weight at which the running sum reaches each row's goal; 0 where the goal is 0."""
    short = mx.cumsum(best, axis=-1) < goal
    last = mx.minimum(mx.sum(short, axis=-1, keepdims=True), best.shape[-1] - 1)
    return mx.where(goal > 0, mx.take_along_axis(best, last, axis=-1), 0.0)


def _true_indices(flags: mx.array) -> mx.array | None:
    """Where the flags (rows,) are set; waits for them."""
    found = [index for index, flag in enumerate(cast("list[bool]", flags.tolist())) if flag]
    return mx.array(found, mx.uint32) if found else None


def _column(values: list[float]) -> mx.array:
    return mx.array(np.array(values, np.float32)[:, None])
