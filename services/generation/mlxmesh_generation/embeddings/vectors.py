"""Shortens and normalizes vectors, and makes scores of logits. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mlxmesh_generation.domain.encoding import Relevance


def shaped(
    vectors: Sequence[Sequence[float]], *, dimensions: int | None, normalize: bool | None
) -> Sequence[Sequence[float]]:
    """Vectors of equal length with their first components only, of length 1 again.

    normalize: None leaves whole vectors as they are, and normalizes shortened ones.
    """
    shortens = dimensions is not None and dimensions < len(vectors[0])
    normalizes = shortens if normalize is None else normalize
    if not shortens and not normalizes:
        return vectors
    import numpy as np  # only few requests need it

    rows = np.array([vector[:dimensions] for vector in vectors], np.float32)
    if normalizes:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows /= np.maximum(lengths, np.finfo(np.float32).tiny)
    return list(rows)


def relevances(logits: Iterable[float], top_n: int | None) -> list[Relevance]:
    """The most relevant first; of equal ones the smallest index."""
    scored = [Relevance(index, sigmoid(logit)) for index, logit in enumerate(logits)]
    scored.sort(key=lambda each: (-each.score, each.index))
    return scored[:top_n]


def sigmoid(logit: float) -> float:
    """0 to 1; without overflow for any logit."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
