from array import array
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.cache.prefix_cache import BLOCK_TOKENS, PrefixCache

Tokens = tuple[int, ...]


class Rig:
    """A cache with one byte per token, whose values are the tokens."""

    def __init__(self, capacity_bytes: int) -> None:
        self.cache: PrefixCache[Tokens] = PrefixCache(capacity_bytes)

    def insert(self, tokens: Sequence[int], namespace: bytes = b"") -> list[tuple[int, int]]:
        """Returns which tokens were extracted."""
        extracted: list[tuple[int, int]] = []

        def extract(start: int, stop: int) -> Tokens:
            extracted.append((start, stop))
            return tuple(tokens[start:stop])

        self.cache.insert(tokens, namespace, token_bytes=1, extract=extract)
        return extracted

    def found(self, tokens: Sequence[int], namespace: bytes = b"") -> Tokens:
        """The tokens of all pieces, in order."""
        pieces = self.cache.find(tokens, namespace)
        return tuple(token for piece in pieces for token in piece.value[: piece.tokens])


def prompt(name: int, blocks: int) -> Tokens:
    return tuple(name * 1_000_000 + number for number in range(blocks * BLOCK_TOKENS))


def test_whole_blocks_are_stored_and_found() -> None:
    rig = Rig(1000)
    tokens = (*prompt(1, 2), 5, 6, 7)
    assert rig.insert(tokens) == [(0, 2 * BLOCK_TOKENS)]
    assert rig.found(tokens) == prompt(1, 2)
    assert rig.found(tokens[: BLOCK_TOKENS + 1]) == prompt(1, 1)
    assert rig.found(tokens[: BLOCK_TOKENS - 1]) == ()
    assert rig.found((9, *tokens)) == ()


def test_only_missing_blocks_are_extracted() -> None:
    rig = Rig(1000)
    rig.insert(prompt(1, 2))
    longer = prompt(1, 2) + prompt(2, 1)
    assert rig.insert(longer) == [(2 * BLOCK_TOKENS, 3 * BLOCK_TOKENS)]
    assert rig.insert(longer) == []
    assert rig.found(longer) == longer
    assert rig.cache.nbytes == 3 * BLOCK_TOKENS


def test_a_branch_begins_in_the_middle_of_a_segment() -> None:
    rig = Rig(1000)
    rig.insert(prompt(1, 3))
    branch = prompt(1, 3)[:BLOCK_TOKENS] + prompt(2, 2)
    assert rig.insert(branch) == [(BLOCK_TOKENS, 3 * BLOCK_TOKENS)]
    assert rig.found(branch) == branch
    assert rig.found(prompt(1, 3)) == prompt(1, 3)


def test_equal_blocks_after_different_prefixes_differ() -> None:
    rig = Rig(1000)
    rig.insert(prompt(1, 1) + prompt(2, 1))
    assert rig.found(prompt(2, 1)) == ()
    assert rig.found(prompt(3, 1) + prompt(2, 1)) == ()


def test_namespaces_share_nothing() -> None:
    rig = Rig(1000)
    for namespace in (b"", b"one", b"other"):
        assert rig.found(prompt(1, 2), namespace) == ()
        assert rig.insert(prompt(1, 2), namespace) == [(0, 2 * BLOCK_TOKENS)]
        assert rig.found(prompt(1, 2), namespace) == prompt(1, 2)
    assert rig.insert(prompt(1, 3), b"one") == [(2 * BLOCK_TOKENS, 3 * BLOCK_TOKENS)]
    assert rig.found(prompt(1, 3), b"other") == prompt(1, 2)


def test_a_namespace_is_not_taken_for_tokens() -> None:
    rig = Rig(1000)
    first, second = prompt(1, 1), prompt(2, 1)
    rig.insert(first + second)
    assert rig.found(second, array("I", first).tobytes()) == ()
    rig.insert(second, array("I", first).tobytes())
    assert rig.found(second) == ()


def test_the_least_recently_used_is_evicted_first() -> None:
    rig = Rig(4 * BLOCK_TOKENS)
    for name in (1, 2, 3, 4):
        rig.insert(prompt(name, 1))
    assert rig.found(prompt(1, 1))
    rig.insert(prompt(5, 1))
    assert [bool(rig.found(prompt(name, 1))) for name in (1, 2, 3, 4, 5)] == [
        True, False, True, True, True,
    ]  # fmt: skip
    assert rig.cache.nbytes == 4 * BLOCK_TOKENS


def test_a_prefix_outlives_its_continuations() -> None:
    rig = Rig(4 * BLOCK_TOKENS)
    rig.insert(prompt(1, 1))
    rig.insert(prompt(1, 1) + prompt(2, 1))
    rig.insert(prompt(3, 3))
    assert rig.found(prompt(1, 1) + prompt(2, 1)) == prompt(1, 1)


def test_of_a_prompt_that_does_not_fit_the_prefix_is_stored() -> None:
    rig = Rig(2 * BLOCK_TOKENS + 5)
    assert rig.insert(prompt(1, 9)) == [(0, 2 * BLOCK_TOKENS)]
    assert rig.insert(prompt(1, 9)) == []
    assert rig.found(prompt(1, 9)) == prompt(1, 9)[: 2 * BLOCK_TOKENS]


def test_an_insertion_never_evicts_its_own_prefix() -> None:
    rig = Rig(3 * BLOCK_TOKENS)
    rig.insert(prompt(1, 2))
    rig.insert(prompt(1, 2) + prompt(2, 5))
    assert rig.found(prompt(1, 2) + prompt(2, 5)) == prompt(1, 2) + prompt(2, 1)


def test_the_version_changes_only_with_the_content() -> None:
    rig = Rig(2 * BLOCK_TOKENS)
    rig.insert(prompt(1, 2))
    version = rig.cache.version
    rig.insert(prompt(1, 2))
    rig.found(prompt(1, 2))
    assert rig.cache.version == version
    rig.insert(prompt(2, 1))
    assert rig.cache.version > version


blocks = st.lists(st.integers(0, 2), max_size=6)


@given(st.lists(st.tuples(st.booleans(), blocks), max_size=40), st.integers(0, 8))
def test_it_never_exceeds_its_bytes_and_never_returns_other_tokens(
    steps: list[tuple[bool, list[int]]], capacity_blocks: int
) -> None:
    rig = Rig(capacity_blocks * BLOCK_TOKENS)
    for keeps, names in steps:
        tokens = [name for name in names for _ in range(BLOCK_TOKENS)]
        if keeps:
            before = len(rig.found(tokens))
            rig.insert(tokens)
            assert len(rig.found(tokens)) >= before
        found = rig.found(tokens)
        assert list(found) == tokens[: len(found)]
        assert rig.cache.nbytes <= capacity_blocks * BLOCK_TOKENS


def test_a_long_conversation_is_found_in_the_segments_it_was_stored_in() -> None:
    rig = Rig(10**9)
    conversation = prompt(1, 1000)
    for turn in range(1, 1001):
        rig.insert(conversation[: turn * BLOCK_TOKENS])
    assert len(rig.cache) == len(rig.cache.find(conversation)) == 1000
    assert rig.found(conversation) == conversation
