"""The sampling contract in plain numpy, float64, one row at a time, by sorting."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.scheduling.request import Sampling

Vector = NDArray[np.float64]

_MASK = 2**64 - 1
_BLOCK = 64


def adjusted(
    logits: Vector, sampling: Sampling, prompt: Sequence[int], output: Sequence[int]
) -> Vector:
    """Scores after logit_bias and penalties."""
    scores = logits.astype(np.float64).copy()
    for token, bias in sampling.logit_bias.items():
        scores[token] += bias
    for token in set(prompt) | set(output):
        penalty = sampling.repetition_penalty
        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    for token, times in Counter(output).items():
        scores[token] -= sampling.presence_penalty + times * sampling.frequency_penalty
    return scores


def probabilities(scores: Vector, sampling: Sampling) -> Vector:
    """The distribution of a draw, after temperature and truncation."""
    scaled = scores / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    share = weights / weights.sum()
    descending = np.sort(share)[::-1]
    threshold = sampling.min_p * descending[0]
    if 0 < sampling.top_k < len(share):
        threshold = max(threshold, descending[sampling.top_k - 1])
    if sampling.top_p < 1:
        last = int(np.searchsorted(np.cumsum(descending), sampling.top_p))
        threshold = max(threshold, descending[min(last, len(share) - 1)])
    kept = np.where(share >= threshold, share, 0)
    return kept / kept.sum()


def contest(
    logits: Vector,
    sampling: Sampling,
    *,
    prompt: Sequence[int],
    output: Sequence[int],
) -> Vector:
    """Scores whose maximum is the next token; their distance must exceed the rounding error.

    Of a draw: how far, as a share, its numbers are from those that choose the token.
    """
    scores = adjusted(logits, sampling, prompt, output)
    if sampling.greedy:
        return scores
    weights = probabilities(scores, sampling)
    weights = np.append(weights, np.zeros(-len(weights) % _BLOCK)).reshape(-1, _BLOCK)
    first, second = _numbers(sampling.seed, len(output))
    missed = _missed(weights.sum(axis=1), first)[:, None] + np.stack(
        [_missed(block, second) for block in weights]
    )
    return -missed.ravel()[: len(scores)]


def _missed(weights: Vector, number: float) -> Vector:
    """The distance of the number from each index's part of the cumulative share, or infinity."""
    if not weights.any():
        return np.full(len(weights), np.inf)
    ends = np.cumsum(weights) / weights.sum()
    starts = np.append(0.0, ends[:-1])
    missed = np.maximum(0, np.maximum(starts - number, number - ends))
    return np.where(weights > 0, missed, np.inf)


def _numbers(seed: int, position: int) -> tuple[float, float]:
    mixed = _mix64((_mix64(seed) + position * 0x9E3779B97F4A7C15) & _MASK)
    first, second = ((word >> 9) + 0.5 for word in (mixed >> 32, mixed & 0xFFFFFFFF))
    return first / 2**23, second / 2**23


def _mix64(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)
