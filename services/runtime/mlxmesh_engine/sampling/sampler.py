"""Chooses the next token of all rows at once, each with its own options.

The order is the contract's: logit_bias, penalties, constraints, temperature, then min_p, top_k and
top_p on the scaled scores. Only rows that use an option pay for it: a greedy batch is an argmax.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlxmesh_engine.sampling.penalties import CountPenalty, RepetitionPenalty
from mlxmesh_engine.sampling.randomness import draw, padded, uniforms
from mlxmesh_engine.sampling.row_masks import RowMasks
from mlxmesh_engine.sampling.row_table import RowSet
from mlxmesh_engine.sampling.truncation import Truncation
from mlxmesh_engine.scheduling.request import Sampling
from mlxmesh_engine.scheduling.sequence import ActiveSequence

_MIN_TEMPERATURE = 1e-30


class BatchSampler:
    """The sampling state of a decode batch, in the order of its rows."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: list[Sampling] = []
        self._repetition = RepetitionPenalty(vocab_size)
        self._counts = CountPenalty(vocab_size)
        self._penalties = (self._repetition, self._counts)
        self._refresh()

    def join(self, actives: Sequence[ActiveSequence]) -> None:
        self._rows += [active.request.sampling for active in actives]
        for penalty in self._penalties:
            penalty.join(actives)
        self._refresh()

    def filter(self, rows: Sequence[int]) -> None:
        self._rows = [self._rows[row] for row in rows]
        for penalty in self._penalties:
            penalty.filter(rows)
        self._refresh()

    def sample(
        self, logits: mx.array, positions: Sequence[int], masks: RowMasks | None = None
    ) -> mx.array:
        """The next token (batch,) of each row. logits: (batch, vocab)."""
        scores = self._bias.apply(logits.astype(mx.float32))
        for penalty in self._penalties:
            scores = penalty.apply(scores)
        if masks is not None:
            scores = masks.apply(scores)
        tokens = self._choose(scores, positions)
        for penalty in self._penalties:
            penalty.record(tokens)
        return tokens

    def at_places(self, rows: Sequence[int], before: Sequence[Sequence[int]]) -> "BatchSampler":
        """A sampler of which each row is a place after one of these rows.

        before: the tokens between the row's last token and each place, which are recorded.
        """
        places = BatchSampler(self._vocab_size)
        places._rows = [self._rows[row] for row in rows]
        places._repetition.copy_rows(self._repetition, rows)
        places._counts.copy_rows(self._counts, rows)
        places._refresh()
        places.record(before)
        return places

    def record(self, tokens: Sequence[Sequence[int]]) -> None:
        """Records tokens of each row that were not sampled here."""
        rows = [row for row, own in enumerate(tokens) for _ in own]
        ids = [token for own in tokens for token in own]
        for penalty in self._penalties:
            penalty.record_pairs(rows, ids)

    def arrays(self) -> list[mx.array]:
        """The state that the last `sample` changed; evaluate it with the tokens."""
        return [array for penalty in self._penalties for array in penalty.arrays()]

    def _choose(self, scores: mx.array, positions: Sequence[int]) -> mx.array:
        if self._draws is None:
            return mx.argmax(scores, axis=-1)
        drawn = self._draws.sample(self._drawn.select(scores), positions)
        if self._drawn.count == len(self._rows):
            return drawn
        return self._drawn.replace(mx.argmax(scores, axis=-1), drawn)

    def _refresh(self) -> None:
        """Rebuilds the parameters after rows joined or left."""
        for penalty in self._penalties:
            penalty.refresh(self._rows)
        self._bias = _Bias(self._rows)
        drawn = [at for at, row in enumerate(self._rows) if not row.greedy]
        self._drawn = RowSet(drawn, len(self._rows))
        self._draws = _Draws(self._rows, drawn, self._vocab_size) if drawn else None


class _Bias:
    """The logit_bias entries of all rows."""

    def __init__(self, rows: Sequence[Sampling]) -> None:
        entries = [
            (at, token, bias)
            for at, row in enumerate(rows)
            for token, bias in row.logit_bias.items()
        ]
        self._entries = [mx.array(list(column)) for column in zip(*entries, strict=True)]

    def apply(self, scores: mx.array) -> mx.array:
        if not self._entries:
            return scores
        rows, tokens, biases = self._entries
        return cast("Any", scores.at[rows, tokens]).add(biases)


class _Draws:
    """The parameters of the rows that are not greedy."""

    def __init__(self, rows: Sequence[Sampling], drawn: list[int], vocab_size: int) -> None:
        own = [rows[at] for at in drawn]
        self._drawn = drawn
        self._seeds = np.array([row.seed for row in own], np.uint64)
        self._truncation = Truncation(own, vocab_size)
        temperatures = np.array([max(row.temperature, _MIN_TEMPERATURE) for row in own])
        self._scale = mx.array((math.log2(math.e) / temperatures).astype(np.float32)[:, None])

    def sample(self, scores: mx.array, positions: Sequence[int]) -> mx.array:
        """A token (drawn rows,). scores: of the drawn rows; positions: of the whole batch."""
        # Relative to the best score, so that a temperature near 0 cannot overflow.
        scaled = (scores - mx.max(scores, axis=-1, keepdims=True)) * self._scale
        # On a CPU, power is three times as fast as exp.
        weights = self._truncation.apply(padded(mx.power(2.0, scaled)))
        return draw(weights, uniforms(self._seeds, np.array(positions, np.uint64)[self._drawn]))
