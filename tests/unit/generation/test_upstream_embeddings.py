"""What an upstream answers to a request for embeddings."""

import pytest

from mlxmesh_generation.upstream.embeddings import prompt_tokens_of, vectors_of
from mlxmesh_shared.errors import UpstreamUnavailable


def test_vectors_are_in_the_order_of_the_inputs() -> None:
    data = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    assert [list(each) for each in vectors_of({"data": data}, 2)] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        [{"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": ["x"]}],
        [{"index": 0, "embedding": None}],
        [{"index": "none", "embedding": [1.0]}],
        "text",
        [{"index": 0, "embedding": []}],
    ],
)
def test_a_response_without_a_vector_for_each_input_is_no_result(data: object) -> None:
    with pytest.raises(UpstreamUnavailable, match="each of the 1 inputs"):
        vectors_of({"data": data}, 1)


def test_vectors_of_different_lengths_are_no_result() -> None:
    data = [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}]
    with pytest.raises(UpstreamUnavailable):
        vectors_of({"data": data}, 2)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [({"prompt_tokens": 3}, 3), ({}, 0), (None, 0), ({"prompt_tokens": -1}, 0), ("x", 0)],
)
def test_tokens_that_an_upstream_does_not_tell_are_0(usage: object, tokens: int) -> None:
    assert prompt_tokens_of({"usage": usage}) == tokens
