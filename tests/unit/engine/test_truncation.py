import mlx.core as mx
import numpy as np
import pytest

from mlxmesh_engine.request import Sampling
from mlxmesh_engine.truncation import Truncation
from tests.fakes.reference_sampling import probabilities

VOCABULARIES = [10, 255, 256, 257, 3000]


def weights_of(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores - scores.max(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
def test_keeps_what_the_reference_keeps(vocab: int, spread: float) -> None:
    rows = [
        Sampling(temperature=1, top_p=0.9),
        Sampling(temperature=1, top_p=0.001),
        Sampling(temperature=1, top_p=0.99999),
        Sampling(temperature=1, top_k=1),
        Sampling(temperature=1, top_k=min(7, vocab)),
        Sampling(temperature=1, top_k=vocab - 1),
        Sampling(temperature=1, top_k=vocab + 5),
        Sampling(temperature=1, min_p=0.3),
        Sampling(temperature=1, top_k=9, top_p=0.7, min_p=0.01),
        Sampling(temperature=1),
    ]
    scores = np.random.default_rng(vocab).normal(0, spread, (len(rows), vocab))
    weights = weights_of(scores)
    kept = np.array(Truncation(rows, vocab).apply(mx.array(weights))) > 0
    for index, row in enumerate(rows):
        expected = probabilities(np.log(weights[index].astype(np.float64)), row) > 0
        different = np.flatnonzero(kept[index] != expected)
        # Where rounding of the running sum decides, one token on the edge may differ.
        assert len(different) <= (1 if row.top_p < 1 else 0), row


def test_ties_at_the_edge_are_kept_together() -> None:
    weights = mx.array([[1.0, 0.5, 0.5, 0.5, 0.1]])
    assert np.array(Truncation([Sampling(temperature=1, top_k=2)], 5).apply(weights)).tolist() == [
        pytest.approx([1.0, 0.5, 0.5, 0.5, 0.0])
    ]
    nucleus = Truncation([Sampling(temperature=1, top_p=0.5)], 5).apply(weights)
    assert np.array(nucleus).tolist() == [pytest.approx([1.0, 0.5, 0.5, 0.5, 0.0])]


def test_the_best_token_always_stays() -> None:
    weights = mx.array(weights_of(np.random.default_rng(1).normal(0, 5, (1, 700))))
    harsh = Truncation([Sampling(temperature=1, top_p=1e-6, top_k=1, min_p=1.0)], 700)
    kept = np.array(harsh.apply(weights))
    assert np.flatnonzero(kept).tolist() == [int(np.argmax(np.array(weights)))]
