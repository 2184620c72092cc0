"""Shapes of vectors and scores."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.encoding import Relevance
from mlxmesh_generation.embeddings.vectors import relevances, shaped, sigmoid

VECTORS = [[3.0, 4.0, 12.0], [0.0, 0.0, 5.0]]


def lists(vectors: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[float(each) for each in vector] for vector in vectors]


def test_whole_vectors_stay_as_the_model_makes_them() -> None:
    assert shaped(VECTORS, dimensions=None, normalize=None) is VECTORS
    assert shaped(VECTORS, dimensions=3, normalize=None) is VECTORS
    assert shaped(VECTORS, dimensions=None, normalize=False) is VECTORS


def test_shortened_vectors_have_length_1_again() -> None:
    first, second = lists(shaped(VECTORS, dimensions=2, normalize=None))
    assert first == pytest.approx([0.6, 0.8])
    assert second == [0.0, 0.0]  # what has no direction gets none


def test_normalize_decides() -> None:
    whole = lists(shaped(VECTORS, dimensions=None, normalize=True))
    assert [math.hypot(*vector) for vector in whole] == pytest.approx([1.0, 1.0])
    assert lists(shaped(VECTORS, dimensions=2, normalize=False)) == [[3.0, 4.0], [0.0, 0.0]]


def test_the_most_relevant_come_first_and_equal_ones_by_their_index() -> None:
    ranked = relevances([0.0, 2.0, 0.0, -1.0], None)
    assert [each.index for each in ranked] == [1, 0, 2, 3]
    assert ranked[1] == Relevance(0, 0.5)
    assert [each.index for each in relevances([0.0, 2.0, 0.0], 2)] == [1, 0]
    assert len(relevances([0.0], 9)) == 1


@given(st.floats(allow_nan=False))
def test_every_score_is_between_0_and_1(logit: float) -> None:
    assert 0 <= sigmoid(logit) <= 1
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1)
