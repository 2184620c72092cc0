"""Log-probabilities of a batch's rows, against float64 arithmetic and a stable sort."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlxmesh_engine.sampling.logprobs import BatchLogprobs, compute_logprobs, most_likely
from mlxmesh_engine.scheduling.request import LogprobOptions, Logprobs, SequenceRequest
from mlxmesh_engine.scheduling.sequence import ActiveSequence


def scores_of(seed: int, rows: int, vocab_size: int, *, step: float = 0.0) -> NDArray[np.float32]:
    """Random scores; with a step, many of them are equal."""
    drawn = np.random.default_rng(seed).normal(0, 3, (rows, vocab_size))
    return (np.round(drawn / step) * step if step else drawn).astype(np.float32)


def reference(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = scores.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def best(scores: NDArray[np.float32], count: int) -> list[list[int]]:
    order = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")
    return order[:, :count].tolist()


def ids(scores: NDArray[np.float32], count: int) -> list[list[int]]:
    return np.array(most_likely(mx.array(scores), count)).tolist()


@pytest.mark.parametrize("vocab_size", [1, 20, 21, 300, 2561, 4096, 152_064])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_the_most_likely_come_first_and_of_equal_ones_the_smallest(
    vocab_size: int, step: float
) -> None:
    scores = scores_of(vocab_size, 3, vocab_size, step=step)
    for count in (1, 5, 20):
        assert ids(scores, min(count, vocab_size)) == best(scores, min(count, vocab_size))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.integers(1, 3000),
    st.integers(1, 20),
    st.sampled_from([0.0, 1.0, 3.0]),
)
def test_any_vocabulary_and_any_ties(
    seed: int, rows: int, vocab_size: int, count: int, step: float
) -> None:
    scores, count = scores_of(seed, rows, vocab_size, step=step), min(count, vocab_size)
    assert ids(scores, count) == best(scores, count)


def test_zeros_of_both_signs_are_equal_and_excluded_tokens_come_last() -> None:
    row = np.array([[-0.0, -math.inf, 0.0, -1.0, -math.inf, 1.0, -0.0]], np.float32)
    assert ids(row, 7) == [[5, 0, 2, 6, 3, 1, 4]]
    many = np.full((1, 5000), -math.inf, np.float32)
    many[0, 4999] = 1
    assert ids(many, 3) == [[4999, 0, 1]]


def test_the_values_are_those_of_log_softmax() -> None:
    scores, tokens = scores_of(1, 4, 3000), [0, 7, 2999, 7]
    found = compute_logprobs(mx.array(scores), mx.array(tokens), 5).joined()
    expected = reference(scores)
    np.testing.assert_allclose(found.chosen, expected[range(4), tokens], atol=1e-5)
    top = np.array(found.top_token_ids).reshape(4, 5)
    assert top.tolist() == best(scores, 5)
    np.testing.assert_allclose(
        np.array(found.top).reshape(4, 5), np.take_along_axis(expected, top, axis=1), atol=1e-5
    )


@pytest.mark.parametrize("spread", [0.01, 3, 30])
def test_the_sum_over_a_large_vocabulary_is_exact(spread: float) -> None:
    scores = scores_of(7, 3, 152_063) * np.float32(spread) + np.float32(20)
    tokens = [0, 5, 152_062]
    found = compute_logprobs(mx.array(scores), mx.array(tokens), 1).joined()
    np.testing.assert_allclose(found.chosen, reference(scores)[range(3), tokens], atol=2e-5)


def test_narrow_scores_are_widened_first() -> None:
    scores = mx.array(scores_of(2, 2, 1000)).astype(mx.bfloat16)
    found = compute_logprobs(scores, mx.array([3, 4]), 2).joined()
    expected = reference(np.array(scores.astype(mx.float32)))
    np.testing.assert_allclose(found.chosen, expected[[0, 1], [3, 4]], atol=1e-5)


def test_a_vocabulary_below_the_requested_number_is_returned_whole() -> None:
    found = compute_logprobs(mx.array(scores_of(3, 2, 6)), mx.array([1, 2]), 20).joined()
    assert sorted(found.top_token_ids[:6]) == list(range(6))
    assert len(found.top) == 12


def active(number: int, options: LogprobOptions | None) -> ActiveSequence:
    return ActiveSequence(SequenceRequest((1, number), (5, 6), 10, logprobs=options))


def rows(*options: LogprobOptions | None) -> BatchLogprobs:
    subject = BatchLogprobs()
    subject.join([active(number, each) for number, each in enumerate(options)])
    return subject


def test_nothing_is_computed_when_no_row_needs_it() -> None:
    scores, tokens = mx.array(scores_of(4, 3, 50)), mx.array([1, 2, 3])
    subject = rows(None, LogprobOptions(), None)
    assert subject.compute(scores, tokens) is not None
    subject.filter([0, 2])
    assert subject.compute(scores[:2], tokens[:2]) is None
    assert BatchLogprobs().compute(scores[:0], tokens[:0]) is None


def test_each_row_gets_what_it_requested_whatever_its_neighbours() -> None:
    scores, tokens = scores_of(5, 4, 2000, step=1.0), [10, 20, 30, 40]
    options = [LogprobOptions(5), None, LogprobOptions(0), LogprobOptions(20)]
    together = rows(*options).compute(mx.array(scores), mx.array(tokens))
    assert together is not None
    found = together.read()
    for at, each in enumerate(options):
        alone = rows(each).compute(mx.array(scores[at : at + 1]), mx.array(tokens[at : at + 1]))
        assert found[at] == (None if alone is None else alone.read()[0])
    assert [None if each is None else len(each.top) for each in found] == [5, None, 0, 20]


def test_rows_keep_their_options_when_others_leave_and_join() -> None:
    subject = rows(LogprobOptions(1), None, LogprobOptions(3))
    subject.filter([2, 1])
    subject.join([active(9, LogprobOptions(2))])
    launched = subject.compute(mx.array(scores_of(6, 3, 100)), mx.array([1, 2, 3]))
    assert launched is not None
    found = launched.read()
    assert [isinstance(each, Logprobs) and len(each.top) for each in found] == [3, False, 2]
