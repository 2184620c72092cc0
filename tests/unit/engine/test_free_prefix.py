import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.constraints.free_prefix import PrefixWalk
from mlxmesh_engine.scheduling.request import FreePrefix

TOKENS = st.lists(st.integers(0, 2), max_size=30)
ENDS = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)


def walked(end: tuple[int, ...], tokens: list[int], max_tokens: int | None = None) -> PrefixWalk:
    walk = PrefixWalk(FreePrefix(end, max_tokens))
    for token in tokens:
        if walk.ended:
            break
        walk.consume(token)
    return walk


@given(end=ENDS, tokens=TOKENS)
def test_it_ends_where_the_end_first_appears(end: tuple[int, ...], tokens: list[int]) -> None:
    appears = any(tuple(tokens[at : at + len(end)]) == end for at in range(len(tokens)))
    assert walked(end, tokens).ended == appears


@given(end=ENDS, free=TOKENS)
def test_forced_tokens_end_it(end: tuple[int, ...], free: list[int]) -> None:
    walk = walked(end, free, max_tokens=max(1, len(free)))
    if not free:
        walk.consume(2)
    for _ in end:
        if walk.ended:
            break
        assert walk.forced is not None
        walk.consume(walk.forced)
    assert walk.ended


@pytest.mark.parametrize(
    ("tokens", "forced"),
    [([0], None), ([0, 9], 1), ([0, 1], 2), ([1, 2], 3), ([0, 1, 2], 3), ([1, 1], 2)],
)
def test_a_part_of_the_end_counts_when_it_is_forced(tokens: list[int], forced: int | None) -> None:
    assert walked((1, 2, 3), tokens, max_tokens=2).forced == forced


def test_nothing_is_forced_without_a_limit() -> None:
    assert walked((1,), [0] * 1000).forced is None
