"""Which tokens may be drawn: top_k, top_p and min_p of many rows at once, exactly.

Each option keeps the tokens whose weight reaches a threshold, so all three together keep those that
reach the largest of the thresholds. Ties are kept or dropped together. `top_k` keeps the weights
that reach the k-th largest; `top_p` the smallest such set whose share of the whole reaches p;
`min_p` those of at least min_p times the best.

No vocabulary is sorted, and nothing waits for the device: `of_few` looks at the best candidates
only, `of_many` halves the vocabulary until few weights are left.
"""

import math
from collections.abc import Sequence

import mlx.core as mx

from mlxmesh_engine.sampling.randomness import blocked
from mlxmesh_engine.sampling.row_table import RowSet
from mlxmesh_engine.scheduling.request import Sampling

_FEW = 256
"""The largest top_k that is served from candidates."""
_SORTED = 256
"""Weights that are sorted instead of halved once more: each halving is a dozen small operations."""
_LONG = 4096
"""Weights beyond which a plain float32 sum loses digits."""
_LARGE = 32
"""How many times the candidates a vocabulary is when they are looked for in two steps."""
_COLUMN = 8
_NO_RANK = 2**30


class Truncation:
    """The options of one batch's drawn rows, as arrays."""

    def __init__(self, rows: Sequence[Sampling], vocab_size: int) -> None:
        few = [at for at, row in enumerate(rows) if 0 < row.top_k <= min(_FEW, vocab_size - 1)]
        cut = [at for at, row in enumerate(rows) if row.top_p < 1 or 0 < row.top_k < vocab_size]
        many = [at for at in cut if at not in few]
        self._groups = [
            (RowSet(group, len(rows)), RankThreshold([rows[at] for at in group], vocab_size))
            for group in (few, many)
            if group
        ]
        self._cuts = bool(cut) or any(row.min_p > 0 for row in rows)
        self._min_p = mx.array([[row.min_p] for row in rows])

    def apply(self, weights: mx.array) -> mx.array:
        """Zeroes what may not be drawn. weights: (batch, padded vocab), the best of each 1."""
        if not self._cuts:
            return weights
        threshold = self._min_p
        for rows, by_rank in self._groups:
            own = mx.maximum(by_rank.of(rows.take(weights)), rows.take(threshold))
            threshold = rows.put(threshold, own)
        return mx.where(weights >= threshold, weights, 0.0)


class RankThreshold:
    """What top_k and top_p ask of rows that have one of them: either all a small top_k, or none."""

    def __init__(self, rows: Sequence[Sampling], vocab_size: int) -> None:
        # A top_k of the whole vocabulary or more keeps all, as 0 does.
        ranks = [row.top_k if 0 < row.top_k < vocab_size else _NO_RANK for row in rows]
        self._candidates = max(ranks) if max(ranks) <= _FEW else 0
        self._rank = mx.array([[rank] for rank in ranks]) if min(ranks) < _NO_RANK else None
        self._cuts_p = any(row.top_p < 1 for row in rows)
        self._top_p = mx.array([[row.top_p if row.top_p < 1 else math.inf] for row in rows])

    def of(self, weights: mx.array) -> mx.array:
        """The least weight (rows, 1) that each row may draw."""
        goal = self._top_p
        if self._cuts_p:
            goal = goal * _sum(weights)
        if self._candidates:
            return _reached(_largest(weights, self._candidates), self._rank, goal)
        return _reached(*_narrowed(weights, self._rank, goal))


def _narrowed(
    weights: mx.array, rank: mx.array | None, goal: mx.array
) -> tuple[mx.array, mx.array | None, mx.array]:
    """The few weights among which each row's rank or goal is reached, and what is left of both.

    Source: weighted quickselect, with halves of fixed size in place of a random pivot.
    """
    # Not negative, so as integers they have the same order and compare faster.
    left = weights.view(mx.int32)
    while left.shape[-1] > _SORTED and left.shape[-1] % 2 == 0:
        half = left.shape[-1] // 2
        left = mx.partition(left, half, axis=-1)
        low, high = left[:, :half], left[:, half:]
        beyond = goal - _sum(high.view(mx.float32))
        stays = beyond <= 0
        if rank is not None:
            stays = stays | (rank <= half)
            rank = mx.where(stays, rank, rank - half)
        left = mx.where(stays, high, low)
        goal = mx.where(stays, goal, beyond)
    return left.view(mx.float32), rank, goal


def _reached(weights: mx.array, rank: mx.array | None, goal: mx.array) -> mx.array:
    """The weight (rows, 1) at which the first of rank and goal is reached, from the best down."""
    best = -mx.sort(-weights, axis=-1)
    at = mx.sum(mx.cumsum(best, axis=-1) < goal, axis=-1, keepdims=True)
    if rank is not None:
        at = mx.minimum(at, rank - 1)
    return mx.take_along_axis(best, mx.minimum(at, best.shape[-1] - 1), axis=-1)


def _largest(weights: mx.array, count: int) -> mx.array:
    """The `count` largest of each row, in any order."""
    size = weights.shape[-1]
    if size >= _LARGE * count:
        # The largest lie in those columns whose own largest are the largest.
        columns = blocked(weights, size // _COLUMN)
        chosen = mx.argpartition(mx.max(columns, axis=1), -count, axis=-1)[:, None, -count:]
        weights = mx.flatten(mx.take_along_axis(columns, chosen, axis=2), 1)
    return mx.topk(weights, min(count, size), axis=-1)


def _sum(weights: mx.array) -> mx.array:
    """Of each row (rows, 1)."""
    size = weights.shape[-1]
    if size > _LONG:
        weights = mx.sum(blocked(weights, math.gcd(size, 64)), axis=-1)
    return mx.sum(weights, axis=-1, keepdims=True)
