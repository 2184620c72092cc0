"""States after exactly the tokens of earlier prompts."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.cache.prefix_cache import BLOCK_TOKENS
from mlxmesh_engine.cache.whole_prompts import WholePrompts

Tokens = tuple[int, ...]


def filled(*prompts: Sequence[int], capacity_bytes: int = 100) -> WholePrompts[Tokens]:
    """States of 10 bytes, whose values are the tokens."""
    cache = WholePrompts[Tokens](capacity_bytes)
    for prompt in prompts:
        cache.insert(prompt, b"", tuple(prompt), 10)
    return cache


def found(cache: WholePrompts[Tokens], tokens: Sequence[int], namespace: bytes = b"") -> Tokens:
    entry = cache.find(tokens, namespace)
    if entry is None:
        return ()
    assert entry[0] == len(entry[1])
    return entry[1]


def test_the_longest_state_that_a_prompt_begins_with_is_found() -> None:
    cache = filled((1, 2), (1, 2, 3), (1, 2, 3, 4), (9, 9, 9, 9, 9))
    assert found(cache, (1, 2, 3, 5, 6)) == (1, 2, 3)
    assert found(cache, (1, 2, 3)) == (1, 2, 3)
    assert found(cache, (1, 2)) == (1, 2)
    assert found(cache, (1,)) == ()
    assert found(cache, (2, 2, 3)) == ()


def test_namespaces_share_nothing() -> None:
    cache = filled((1, 2))
    cache.insert((1, 2), b"one", (1, 2), 10)
    assert found(cache, (1, 2, 3), b"one") == (1, 2)
    assert found(cache, (1, 2, 3), b"other") == ()
    assert cache.contains((1, 2), b"one")
    assert not cache.contains((1, 2), b"other")


def test_the_least_recently_used_state_is_evicted_first() -> None:
    cache = filled((1,), (2,), (3,), capacity_bytes=30)
    assert found(cache, (1, 5)) == (1,)
    cache.insert((4,), b"", (4,), 10)
    assert [found(cache, (token,)) for token in (1, 2, 3, 4)] == [(1,), (), (3,), (4,)]
    assert cache.nbytes == 30


def test_a_state_that_is_too_large_evicts_nothing() -> None:
    cache = filled((1,), capacity_bytes=10)
    cache.insert((2,), b"", (2,), 11)
    assert found(cache, (1,)) == (1,)
    assert len(cache) == 1


def test_the_version_changes_only_with_the_content() -> None:
    cache = filled((1,))
    version = cache.version
    cache.insert((1,), b"", (1,), 10)
    found(cache, (1,))
    assert cache.version == version
    cache.insert((2,), b"", (2,), 10)
    assert cache.version > version


def test_prompts_part_after_their_last_common_block() -> None:
    cache = WholePrompts[Tokens](100)
    common = tuple(range(2 * BLOCK_TOKENS + 5))
    assert cache.branch(common, b"") == 0
    cache.remember((*common, 7, 8), b"")
    assert cache.branch((*common, 9), b"") == 2 * BLOCK_TOKENS
    assert cache.branch((*common, 9), b"other") == 0


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=30))
def test_it_finds_the_longest_of_all_and_never_exceeds_its_bytes(prompts: list[list[int]]) -> None:
    cache = filled(*prompts, capacity_bytes=10_000)
    small = filled(*prompts, capacity_bytes=35)
    assert small.nbytes <= 35
    for prompt in prompts:
        wanted = (1, *prompt)
        candidates = [each for each in prompts if wanted[: len(each)] == tuple(each)]
        assert found(cache, wanted) == tuple(max(candidates, key=len, default=()))
        if kept := found(small, wanted):
            assert wanted[: len(kept)] == kept
