"""Log-probabilities of tokens and of the most likely ones, under the model's own distribution.

They are computed from the scores as the model returns them: before bias, penalties, temperature,
truncation and masks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from mlxmesh_engine.sampling.randomness import blocked, padded
from mlxmesh_engine.sampling.row_table import RowSet
from mlxmesh_engine.sampling.truncation import row_sums
from mlxmesh_engine.scheduling.request import LogprobOptions, Logprobs
from mlxmesh_engine.scheduling.sequence import ActiveSequence

_BLOCK = 64
_ID_BITS = 32


@dataclass(frozen=True, slots=True)
class LaunchedLogprobs:
    """Log-probabilities under computation."""

    chosen: mx.array
    """(places,)"""
    top_ids: mx.array
    """(places, top)"""
    top: mx.array
    """(places, top)"""

    def arrays(self) -> list[mx.array]:
        return [self.chosen, self.top_ids, self.top]

    def read(self) -> tuple[list[float], list[list[int]], list[list[float]]]:
        """Waits for the computation; returns each array."""
        chosen, ids, top = (cast("Any", array).tolist() for array in self.arrays())
        return chosen, ids, top

    def joined(self) -> Logprobs:
        """Waits for the computation; returns all places as one."""
        chosen, ids, top = self.read()
        return Logprobs(
            tuple(chosen),
            tuple(each for place in ids for each in place),
            tuple(each for place in top for each in place),
        )


def compute_logprobs(scores: mx.array, tokens: mx.array, top: int) -> LaunchedLogprobs:
    """Of a token at each place, and of the `top` most likely, at most the whole vocabulary.

    scores: (places, vocab); tokens: (places,).
    """
    scores = scores.astype(mx.float32)
    total = _log_sum(scores)
    chosen = mx.take_along_axis(scores, tokens.astype(mx.uint32)[:, None], axis=-1) - total
    ids = most_likely(scores, min(top, scores.shape[-1]))
    best = mx.take_along_axis(scores, ids, axis=-1) - total
    return LaunchedLogprobs(chosen[:, 0], ids, best)


def _log_sum(scores: mx.array) -> mx.array:
    """The logarithm (places, 1) of the sum of the exponentials."""
    best = mx.max(scores, axis=-1, keepdims=True)
    # On a CPU, power is three times as fast as exp.
    weights = mx.power(2.0, (scores - best) * math.log2(math.e))
    return best + mx.log(row_sums(padded(weights)))


def most_likely(scores: mx.array, count: int) -> mx.array:
    """The tokens (places, count) with the best scores, the best first; of equal ones the smallest.

    scores: float32 (places, vocab), count at most the vocabulary.
    """
    places, vocab_size = scores.shape
    if count == 0:
        return mx.zeros((places, 0), mx.uint32)
    ids = mx.broadcast_to(mx.arange(vocab_size), scores.shape)
    if vocab_size > 2 * _BLOCK * count:
        scores, ids = _candidates(scores, count)
    return _first(scores, ids, count)


def _candidates(scores: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """The scores and ids of the `count` blocks with the best maxima: they hold the best tokens."""
    padding = -scores.shape[-1] % _BLOCK
    if padding:
        scores = mx.pad(scores, [(0, 0), (0, padding)], constant_values=-mx.inf)
    blocks = blocked(scores, _BLOCK)
    maxima = mx.max(blocks, axis=-1)
    numbers = mx.broadcast_to(mx.arange(maxima.shape[-1]), maxima.shape)
    chosen = _first(maxima, numbers, count)[:, :, None]
    ids = chosen.astype(mx.int32) * _BLOCK + mx.arange(_BLOCK)
    return mx.flatten(mx.take_along_axis(blocks, chosen, axis=1), 1), mx.flatten(ids, 1)


def _first(scores: mx.array, ids: mx.array, count: int) -> mx.array:
    """The ids (places, count) of the best scores, sorted by falling score, then by rising id.

    Score and id form one integer, so that no two are equal and the kind of sort does not matter.
    """
    # Adding 0 makes -0.0 equal to 0.0. As integers, negative numbers have the opposite order.
    bits = (scores + 0.0).view(mx.int32)
    rising = mx.where(bits < 0, mx.bitwise_xor(bits, 0x7FFFFFFF), bits)
    keys = (-1 - rising.astype(mx.int64)) * 2**_ID_BITS + ids.astype(mx.int64)
    if count < keys.shape[-1]:
        keys = mx.partition(keys, count - 1, axis=-1)[:, :count]
    return mx.bitwise_and(mx.sort(keys, axis=-1), 2**_ID_BITS - 1).astype(mx.uint32)


class BatchLogprobs:
    """Which rows of a decode batch need log-probabilities; nothing is computed for the others."""

    def __init__(self) -> None:
        self._rows: list[LogprobOptions | None] = []
        self._refresh()

    def join(self, actives: Sequence[ActiveSequence]) -> None:
        self._rows += [active.request.logprobs for active in actives]
        self._refresh()

    def filter(self, rows: Sequence[int]) -> None:
        self._rows = [self._rows[row] for row in rows]
        self._refresh()

    def compute(self, scores: mx.array, tokens: mx.array) -> "StepLogprobs | None":
        """Of one step. scores: (batch, vocab); tokens: (batch,); None if no row needs them."""
        if not self._tops:
            return None
        own, tokens = self._own.select(scores), self._own.select(tokens)
        launched = compute_logprobs(own, tokens, max(self._tops.values()))
        return StepLogprobs(len(self._rows), self._tops, launched)

    def _refresh(self) -> None:
        """Rebuilds the parameters after rows joined or left."""
        self._tops = {at: row.top for at, row in enumerate(self._rows) if row is not None}
        self._own = RowSet(list(self._tops), len(self._rows))


@dataclass(frozen=True, slots=True)
class StepLogprobs:
    """The log-probabilities of one decode step under computation."""

    rows: int
    tops: dict[int, int]
    """How many of the most likely tokens each row asked for, by row."""
    launched: LaunchedLogprobs

    def arrays(self) -> list[mx.array]:
        return self.launched.arrays()

    def read(self) -> list[Logprobs | None]:
        """Waits for the computation; returns those of each row, None for one that needs none."""
        found: list[Logprobs | None] = [None] * self.rows
        for (row, top), chosen, ids, values in zip(
            self.tops.items(), *self.launched.read(), strict=True
        ):
            found[row] = Logprobs((chosen,), tuple(ids[:top]), tuple(values[:top]))
        return found
