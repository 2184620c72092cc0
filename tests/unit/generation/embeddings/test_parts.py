"""How inputs are cut into parts for engines."""

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.placement.encoders import (
    MAX_PART_INPUTS,
    MAX_PART_TOKENS,
    MIN_PART_TOKENS,
    parts,
)

LENGTHS = st.lists(st.integers(1, 9000), min_size=1, max_size=600)


@given(LENGTHS, st.integers(1, 8))
def test_parts_have_every_input_once_and_keep_their_limits(
    lengths: list[int], engines: int
) -> None:
    cut = parts(lengths, engines)
    assert [each for part in cut for each in lengths[part]] == lengths
    for part in cut:
        inside = lengths[part]
        assert 1 <= len(inside) <= MAX_PART_INPUTS
        assert len(inside) == 1 or sum(inside) <= MAX_PART_TOKENS


def test_few_short_texts_stay_together() -> None:
    assert parts([10] * 40, engines=8) == [slice(0, 40)]


def test_many_texts_are_shared_equally() -> None:
    assert parts([100] * 100, engines=2) == [slice(0, 50), slice(50, 100)]
    assert MIN_PART_TOKENS < 5000


def test_one_text_of_any_length_is_a_part() -> None:
    assert parts([MAX_PART_TOKENS * 3, 1], engines=1) == [slice(0, 1), slice(1, 2)]
