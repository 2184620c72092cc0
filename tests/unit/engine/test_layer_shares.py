"""How many layers each rank gets, by its share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.groups.layer_shares import (
    PPM,
    Layer,
    are_equal,
    divide_layers,
    shares_of_all,
)
from mlxmesh_shared.errors import InvalidArgument


def layers(kinds: str, size_bytes: int = 10) -> list[Layer]:
    return [Layer(size_bytes, kind) for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "shares", "counts"),
    [
        ("aaaa", [750_000, 250_000], [3, 1]),
        ("aaaa", [250_000, 500_000, 250_000], [1, 2, 1]),
        # Everybody has a layer, however small its share is.
        ("aaaa", [999_998, 1, 1], [2, 1, 1]),
        # Rank 0 has the last layers. Each rank needs layers of both kinds.
        ("aabaab", [100_000, 900_000], [2, 4]),
        ("aabaab", [900_000, 100_000], [3, 3]),
        ("aaab", [750_000, 250_000], None),
    ],
)
def test_layers_are_divided_by_shares(
    kinds: str, shares: list[int], counts: list[int] | None
) -> None:
    assert divide_layers(layers(kinds), shares) == counts


def test_large_layers_count_more() -> None:
    first_is_large = [Layer(60, "a"), *layers("aaaa")]
    assert divide_layers(first_is_large, [400_000, 600_000]) == [4, 1]


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.sampled_from("ab")), min_size=1, max_size=12),
    st.lists(st.integers(1, PPM // 4), min_size=1, max_size=3),
)
def test_each_rank_has_consecutive_layers_of_all_kinds(
    given_layers: list[tuple[int, str]], others: list[int]
) -> None:
    model = [Layer(*each) for each in given_layers]
    counts = divide_layers(model, [PPM - sum(others), *others])
    if counts is None:
        return
    assert sum(counts) == len(model)
    at = 0
    for count in reversed(counts):
        own = model[at : at + count]
        assert {each.kind for each in own} == {each.kind for each in model}
        at += count


@pytest.mark.parametrize(
    ("others", "shares"),
    [
        ([250_000], [750_000, 250_000]),
        ([999_998, 1], [1, 999_998, 1]),
        ([600_000, 0], [333_333] * 3),
    ],
)
def test_rank_0_has_what_the_others_leave(others: list[int], shares: list[int]) -> None:
    assert shares_of_all(others) == shares


def test_shares_that_leave_nothing_for_rank_0_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="leave nothing") as refusal:
        shares_of_all([999_999, 1])
    assert refusal.value.field == "group_share_ppm"


def test_rounded_shares_are_equal() -> None:
    assert are_equal([333_334, 333_333, 333_333])
    assert not are_equal([600_000, 400_000])
