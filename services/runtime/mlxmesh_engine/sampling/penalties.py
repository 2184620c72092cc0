"""Penalties for tokens in the prompt and the output so far, for the rows that use them."""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.sampling.row_table import RowTable
from mlxmesh_engine.scheduling.request import Sampling
from mlxmesh_engine.scheduling.sequence import ActiveSequence


class RepetitionPenalty:
    """Divides positive and multiplies negative scores of tokens in the prompt or the output."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._factors = RowTable()
        self._penalties = mx.zeros((0,))

    def join(self, actives: Sequence[ActiveSequence]) -> None:
        self._factors.join([self._row(active) for active in actives])

    def filter(self, rows: Sequence[int]) -> None:
        self._factors.filter(rows)

    def refresh(self, rows: Sequence[Sampling]) -> None:
        """Rebuilds the parameters after rows joined or left."""
        self._penalties = mx.array([row.repetition_penalty for row in rows if _has_repetition(row)])

    def apply(self, scores: mx.array) -> mx.array:
        factors = self._factors.values
        if factors is None:
            return scores
        own = self._factors.rows.select(scores)
        penalized = mx.where(own > 0, own / factors, own * factors)
        return self._factors.rows.replace(scores, penalized)

    def record(self, tokens: mx.array) -> None:
        self._factors.set(tokens, self._penalties)

    def record_pairs(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Records pairs of a row and a token; a row may stand in several."""
        own, ids = self._factors.pairs(rows, tokens)
        if own and (factors := self._factors.values) is not None:
            factors[mx.array(own), mx.array(ids)] = self._penalties[mx.array(own)]

    def copy_rows(self, other: "RepetitionPenalty", rows: Sequence[int]) -> None:
        """Becomes a copy of some rows of another one; call `refresh` after it."""
        self._factors.copy_rows(other._factors, rows)

    def arrays(self) -> list[mx.array]:
        return self._factors.arrays()

    def _row(self, active: ActiveSequence) -> NDArray[np.float32] | None:
        if not _has_repetition(active.request.sampling):
            return None
        factors = np.ones(self._vocab_size, np.float32)
        factors[list(active.tokens)] = active.request.sampling.repetition_penalty
        return factors


class CountPenalty:
    """Subtracts presence_penalty and frequency_penalty from tokens in the output."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._counts = RowTable()
        self._presence = self._frequency = mx.zeros((0, 1))

    def join(self, actives: Sequence[ActiveSequence]) -> None:
        self._counts.join([self._row(active) for active in actives])

    def filter(self, rows: Sequence[int]) -> None:
        self._counts.filter(rows)

    def refresh(self, rows: Sequence[Sampling]) -> None:
        """Rebuilds the parameters after rows joined or left."""
        own = [row for row in rows if _has_counts(row)]
        self._presence = mx.array([[row.presence_penalty] for row in own])
        self._frequency = mx.array([[row.frequency_penalty] for row in own])

    def apply(self, scores: mx.array) -> mx.array:
        counts = self._counts.values
        if counts is None:
            return scores
        own = self._counts.rows.select(scores)
        own = own - mx.minimum(counts, 1.0) * self._presence - counts * self._frequency
        return self._counts.rows.replace(scores, own)

    def record(self, tokens: mx.array) -> None:
        self._counts.add(tokens, 1.0)

    def record_pairs(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Records pairs of a row and a token; a row may stand in several."""
        own, ids = self._counts.pairs(rows, tokens)
        if own and (counts := self._counts.values) is not None:
            at_pairs = cast("Any", counts.at[mx.array(own), mx.array(ids)])
            self._counts.values = at_pairs.add(1.0)

    def copy_rows(self, other: "CountPenalty", rows: Sequence[int]) -> None:
        """Becomes a copy of some rows of another one; call `refresh` after it."""
        self._counts.copy_rows(other._counts, rows)

    def arrays(self) -> list[mx.array]:
        return self._counts.arrays()

    def _row(self, active: ActiveSequence) -> NDArray[np.float32] | None:
        if not _has_counts(active.request.sampling):
            return None
        ids = np.array(active.request.generated, np.int64)
        return np.bincount(ids, minlength=self._vocab_size).astype(np.float32)


def _has_repetition(row: Sampling) -> bool:
    return row.repetition_penalty != 1


def _has_counts(row: Sampling) -> bool:
    return row.presence_penalty != 0 or row.frequency_penalty != 0
