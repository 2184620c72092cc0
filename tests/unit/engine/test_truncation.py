import mlx.core as mx
import numpy as np
import pytest

from mlxmesh_engine.sampling.randomness import padded
from mlxmesh_engine.sampling.truncation import Truncation
from mlxmesh_engine.scheduling.request import Sampling
from tests.fakes.reference_sampling import probabilities

VOCABULARIES = [10, 255, 256, 257, 3000, 20_003]


def weights_of(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores - scores.max(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
def test_keeps_the_tokens_that_the_reference_keeps(vocab: int, spread: float) -> None:
    rows = [
        Sampling(temperature=1, top_p=0.9),
        Sampling(temperature=1, top_p=0.001),
        Sampling(temperature=1, top_p=0.99999),
        Sampling(temperature=1, top_k=1),
        Sampling(temperature=1, top_k=min(7, vocab)),
        Sampling(temperature=1, top_k=min(256, vocab - 1)),
        Sampling(temperature=1, top_k=min(257, vocab - 1), top_p=0.97),
        Sampling(temperature=1, top_k=vocab - 1),
        Sampling(temperature=1, top_k=vocab + 5),
        Sampling(temperature=1, min_p=0.3),
        Sampling(temperature=1, top_k=9, top_p=0.7, min_p=0.01),
        Sampling(temperature=1),
    ]
    scores = np.random.default_rng(vocab).normal(0, spread, (len(rows), vocab))
    weights = weights_of(scores)
    kept = np.array(Truncation(rows, vocab).apply(padded(mx.array(weights))))[:, :vocab] > 0
    for index, row in enumerate(rows):
        expected = probabilities(np.log(weights[index].astype(np.float64)), row) > 0
        different = weights[index][kept[index] != expected]
        # Where rounding of the running sum decides, the edge may differ: by one token or a trace.
        trace = different.sum() / weights[index].sum() < 1e-6
        assert len(different) == 0 or (row.top_p < 1 and (len(different) == 1 or trace)), row


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
    kept = np.array(harsh.apply(padded(weights)))
    assert np.flatnonzero(kept).tolist() == [int(np.argmax(np.array(weights)))]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary_loses_no_digits(share: float) -> None:
    vocab = 152_064
    scores = np.random.default_rng(5).normal(0, 2, (2, vocab))
    weights = weights_of(scores)
    rows = [Sampling(temperature=1, top_p=share), Sampling(temperature=1)]
    kept = np.array(Truncation(rows, vocab).apply(mx.array(weights)))[0].astype(np.float64)
    whole = weights[0].astype(np.float64).sum()
    assert kept.sum() / whole > share - 2e-6
    assert (kept.sum() - kept[kept > 0].min()) / whole < share + 2e-6


def test_thresholds_do_not_depend_on_the_neighbours() -> None:
    weights = mx.array(weights_of(np.random.default_rng(3).normal(0, 2, (6, 4096))))
    rows = [
        Sampling(temperature=1, top_p=0.9),
        Sampling(temperature=1, top_k=3),
        Sampling(temperature=1, top_k=200, top_p=0.9),
        Sampling(temperature=1, top_k=1000, top_p=0.99),
        Sampling(temperature=1, min_p=0.01),
        Sampling(temperature=1, top_p=0.3, top_k=2000),
    ]
    together = np.array(Truncation(rows, 4096).apply(weights))
    for at, row in enumerate(rows):
        alone = np.array(Truncation([row], 4096).apply(weights[at : at + 1]))
        assert np.array_equal(alone[0], together[at]), row
