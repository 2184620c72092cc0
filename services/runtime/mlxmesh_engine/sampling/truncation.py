"""Truncates the distribution: exact top_k, top_p and min_p of many rows at once.

Each option keeps the tokens whose weight reaches a threshold, so all three together keep the tokens
that reach the largest threshold. Ties are kept or dropped together. `top_k` keeps the weights that
reach the k-th largest; `top_p` the smallest such set whose share of the total reaches p; `min_p`
the weights of at least min_p times the best.

No vocabulary is sorted, and nothing waits for the device: a small top_k looks at the largest
candidates only, everything else halves the vocabulary until few weights are left.
"""

import math
from collections.abc import Sequence

import mlx.core as mx

from mlxmesh_engine.sampling.randomness import blocked
from mlxmesh_engine.sampling.row_table import RowSet
from mlxmesh_engine.scheduling.request import Sampling

_MAX_CANDIDATES = 256
"""The largest top_k that is computed from candidates."""
_SORT_BELOW = 256
"""From here on sorting is cheaper than another halving, which is a dozen small operations."""
_MAX_PLAIN_SUM = 4096
"""A plain float32 sum of more weights loses digits."""
_TWO_STEP_FACTOR = 32
"""A vocabulary of so many times the candidates is searched in two steps."""
_COLUMN = 8
_NO_RANK = 2**30


class Truncation:
    """The truncation options of one batch's drawn rows, as arrays."""

    def __init__(self, rows: Sequence[Sampling], vocab_size: int) -> None:
        max_few = min(_MAX_CANDIDATES, vocab_size - 1)
        few = [at for at, row in enumerate(rows) if 0 < row.top_k <= max_few]
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
        """Zeroes the tokens that must not be drawn. weights: (batch, padded vocab), at most 1."""
        if not self._cuts:
            return weights
        threshold = self._min_p
        for rows, by_rank in self._groups:
            own = mx.maximum(by_rank.compute(rows.select(weights)), rows.select(threshold))
            threshold = rows.replace(threshold, own)
        return mx.where(weights >= threshold, weights, 0.0)


class RankThreshold:
    """The threshold of top_k and top_p for rows that all have a small top_k, or all have not."""

    def __init__(self, rows: Sequence[Sampling], vocab_size: int) -> None:
        # A top_k of at least the whole vocabulary keeps all tokens, as 0 does.
        ranks = [row.top_k if 0 < row.top_k < vocab_size else _NO_RANK for row in rows]
        self._candidates = max(ranks) if max(ranks) <= _MAX_CANDIDATES else 0
        self._rank = mx.array([[rank] for rank in ranks]) if min(ranks) < _NO_RANK else None
        self._cuts_p = any(row.top_p < 1 for row in rows)
        self._top_p = mx.array([[row.top_p if row.top_p < 1 else math.inf] for row in rows])

    def compute(self, weights: mx.array) -> mx.array:
        """The smallest weight (rows, 1) that each row may draw."""
        goal = self._top_p
        if self._cuts_p:
            goal = goal * row_sums(weights)
        if self._candidates:
            return _reached(_largest(weights, self._candidates), self._rank, goal)
        return _reached(*_narrowed(weights, self._rank, goal))


def _narrowed(
    weights: mx.array, rank: mx.array | None, goal: mx.array
) -> tuple[mx.array, mx.array | None, mx.array]:
    """The few weights among which each row's rank or goal is reached, and the rest of both.

    Source: weighted quickselect, with halves of fixed size in place of a random pivot.
    """
    # Weights are not negative: as integers they have the same order and compare faster.
    left = weights.view(mx.int32)
    while left.shape[-1] > _SORT_BELOW and left.shape[-1] % 2 == 0:
        half = left.shape[-1] // 2
        left = mx.partition(left, half, axis=-1)
        low, high = left[:, :half], left[:, half:]
        beyond = goal - row_sums(high.view(mx.float32))
        stays = beyond <= 0
        if rank is not None:
            stays = stays | (rank <= half)
            rank = mx.where(stays, rank, rank - half)
        left = mx.where(stays, high, low)
        goal = mx.where(stays, goal, beyond)
    return left.view(mx.float32), rank, goal


def _reached(weights: mx.array, rank: mx.array | None, goal: mx.array) -> mx.array:
    """The weight (rows, 1), from the best down, at which the first of rank and goal is reached."""
    best = -mx.sort(-weights, axis=-1)
    at = mx.sum(mx.cumsum(best, axis=-1) < goal, axis=-1, keepdims=True)
    if rank is not None:
        at = mx.minimum(at, rank - 1)
    return mx.take_along_axis(best, mx.minimum(at, best.shape[-1] - 1), axis=-1)


def _largest(weights: mx.array, count: int) -> mx.array:
    """The `count` largest of each row, in any order."""
    size = weights.shape[-1]
    if size >= _TWO_STEP_FACTOR * count:
        # The largest weights lie in the columns with the largest maxima.
        columns = blocked(weights, size // _COLUMN)
        chosen = mx.argpartition(mx.max(columns, axis=1), -count, axis=-1)[:, None, -count:]
        weights = mx.flatten(mx.take_along_axis(columns, chosen, axis=2), 1)
    return mx.topk(weights, min(count, size), axis=-1)


def row_sums(weights: mx.array) -> mx.array:
    """The sum of each row (rows, 1), exact enough for a large vocabulary."""
    size = weights.shape[-1]
    if size > _MAX_PLAIN_SUM:
        weights = mx.sum(blocked(weights, math.gcd(size, 64)), axis=-1)
    return mx.sum(weights, axis=-1, keepdims=True)
