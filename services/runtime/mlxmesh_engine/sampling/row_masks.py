"""Which tokens the constrained rows of a batch may get."""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.sampling.row_table import RowSet

# Below every score; the best of several such scores is still found, other than of infinities.
_LOWEST = -3e38


class RowMasks:
    """Masks for some rows of a batch; the others are not changed."""

    def __init__(self, rows: Sequence[int], batch: int, allowed: NDArray[np.bool_]) -> None:
        """allowed: (rows, vocab)"""
        self._rows = RowSet(rows, batch)
        self._allowed = mx.array(cast("Any", allowed))

    def apply(self, scores: mx.array) -> mx.array:
        """Scores (batch, vocab) of which only allowed tokens are finite, and all of those are."""
        own = self._rows.select(scores)
        finite = mx.where(own > _LOWEST, own, _LOWEST)
        return self._rows.replace(scores, mx.where(self._allowed, finite, -mx.inf))
