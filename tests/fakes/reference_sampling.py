"""The sampling contract in plain numpy, float64, one row at a time, by sorting."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.randomness import draw_keys, exponentials
from mlxmesh_engine.request import Sampling

Vector = NDArray[np.float64]


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
    """What a draw chooses from, after temperature and truncation."""
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
    """Scores whose largest is the next token; their distance is what rounding must bridge."""
    scores = adjusted(logits, sampling, prompt, output)
    if sampling.greedy:
        return scores
    keys = draw_keys(np.array([sampling.seed], np.uint64), np.array([len(output)], np.uint64))
    exponential = np.array(exponentials(keys, len(logits)))[0].astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.log(probabilities(scores, sampling)) - np.log(exponential)
