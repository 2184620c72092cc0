"""Choosing the next token of every row at once, whatever each row's options are.

The order is the contract's: logit_bias, penalties, temperature, then min_p, top_k and top_p on the
scaled scores. Only what some row of the batch needs is computed: a greedy batch is an argmax.
"""

from collections.abc import Sequence as Seq

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.randomness import draw_keys, exponentials
from mlxmesh_engine.request import Sampling
from mlxmesh_engine.row_table import RowTable
from mlxmesh_engine.scheduler import Active
from mlxmesh_engine.truncation import Truncation

_SMALLEST_TEMPERATURE = 1e-30


class BatchSampler:
    """The sampling state of a decode batch, row for row in the batch's order."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: list[Sampling] = []
        self._bias = RowTable(vocab_size)
        self._in_prompt = RowTable(vocab_size)
        self._in_output = RowTable(vocab_size)
        self._refresh()

    def join(self, actives: Seq[Active]) -> None:
        rows = [active.request.sampling for active in actives]
        self._rows += rows
        self._bias.join([self._bias_row(row) for row in rows])
        self._in_prompt.join(
            [
                self._counts(active.request.prompt) if row.repetition_penalty != 1 else None
                for active, row in zip(actives, rows, strict=True)
            ]
        )
        self._in_output.join(
            [
                self._counts(active.request.generated) if row.counts_output else None
                for active, row in zip(actives, rows, strict=True)
            ]
        )
        self._refresh()

    def keep(self, rows: Seq[int]) -> None:
        self._rows = [self._rows[row] for row in rows]
        for table in (self._bias, self._in_prompt, self._in_output):
            table.keep(rows)
        self._refresh()

    def sample(self, logits: mx.array, positions: Seq[int]) -> mx.array:
        """The next token (batch,) of each row. logits: (batch, vocab)."""
        scores = self._adjust(logits.astype(mx.float32))
        tokens = mx.argmax(scores, axis=-1).astype(mx.uint32)
        if self._drawn:
            drawn = self._draw(scores, np.array(positions, np.uint64))
            if len(self._drawn) == len(self._rows):
                tokens = drawn
            else:
                tokens[mx.array(self._drawn)] = drawn
        self._in_output.count(tokens)
        return tokens

    def arrays(self) -> list[mx.array]:
        """The state that the last `sample` changed, to be evaluated with its tokens."""
        counts = self._in_output.values
        return [] if counts is None else [counts]

    def _adjust(self, scores: mx.array) -> mx.array:
        if self._bias.values is not None:
            scores = scores + self._bias.values
        output = self._in_output.values
        if output is None:
            return scores
        if self._in_prompt.values is not None:
            seen = (self._in_prompt.values > 0) | (output > 0)
            penalized = mx.where(
                scores > 0, scores / self._repetition_penalty, scores * self._repetition_penalty
            )
            scores = mx.where(seen, penalized, scores)
        return scores - (output > 0) * self._presence_penalty - output * self._frequency_penalty

    def _draw(self, scores: mx.array, positions: NDArray[np.uint64]) -> mx.array:
        """Tokens of the rows that are not greedy."""
        if len(self._drawn) < len(self._rows):
            scores = scores[mx.array(self._drawn)]
        # Relative to the best, so that a temperature near 0 cannot overflow.
        scores = scores - mx.max(scores, axis=-1, keepdims=True)
        weights = self._truncation.apply(mx.exp(scores / self._temperature))
        keys = draw_keys(self._seeds, positions[self._drawn])
        return mx.argmax(weights / exponentials(keys, self._vocab_size), axis=-1).astype(mx.uint32)

    def _refresh(self) -> None:
        """Rebuilds the parameter arrays after the rows changed."""
        self._drawn = [index for index, row in enumerate(self._rows) if not row.greedy]
        self._repetition_penalty = _column([row.repetition_penalty for row in self._rows])
        self._presence_penalty = _column([row.presence_penalty for row in self._rows])
        self._frequency_penalty = _column([row.frequency_penalty for row in self._rows])
        drawn = [self._rows[index] for index in self._drawn]
        self._seeds = np.array([row.seed for row in drawn], np.uint64)
        self._temperature = _column([max(row.temperature, _SMALLEST_TEMPERATURE) for row in drawn])
        if drawn:
            self._truncation = Truncation(drawn, self._vocab_size)

    def _bias_row(self, row: Sampling) -> NDArray[np.float32] | None:
        if not row.logit_bias:
            return None
        bias = np.zeros(self._vocab_size, np.float32)
        bias[list(row.logit_bias)] = list(row.logit_bias.values())
        return bias

    def _counts(self, token_ids: Seq[int]) -> NDArray[np.float32]:
        ids = np.array(token_ids, np.int64)
        return np.bincount(ids, minlength=self._vocab_size).astype(np.float32)


def _column(values: list[float]) -> mx.array:
    return mx.array(np.array(values, np.float32)[:, None])
