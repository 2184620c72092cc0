from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.cache.prefix_cache import BLOCK_TOKENS, PrefixCache

Tokens = tuple[int, ...]


class Rig:
    """A cache of one byte a token that keeps the tokens themselves."""

    def __init__(self, capacity_bytes: int) -> None:
        self.cache: PrefixCache[Tokens] = PrefixCache(capacity_bytes)

    def keep(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """Returns which tokens were extracted."""
        extracted: list[tuple[int, int]] = []

        def extract(start: int, stop: int) -> Tokens:
            extracted.append((start, stop))
            return tuple(tokens[start:stop])

        self.cache.insert(tokens, token_bytes=1, extract=extract)
        return extracted

    def found(self, tokens: Sequence[int]) -> Tokens:
        """What the pieces hold, one after the other."""
        pieces = self.cache.find(tokens)
        return tuple(token for piece in pieces for token in piece.value[: piece.tokens])


def prompt(name: int, blocks: int) -> Tokens:
    return tuple(name * 1_000_000 + number for number in range(blocks * BLOCK_TOKENS))


def test_whole_blocks_are_kept_and_found() -> None:
    rig = Rig(1000)
    tokens = (*prompt(1, 2), 5, 6, 7)
    assert rig.keep(tokens) == [(0, 2 * BLOCK_TOKENS)]
    assert rig.found(tokens) == prompt(1, 2)
    assert rig.found(tokens[: BLOCK_TOKENS + 1]) == prompt(1, 1)
    assert rig.found(tokens[: BLOCK_TOKENS - 1]) == ()
    assert rig.found((9, *tokens)) == ()


def test_only_what_is_missing_is_extracted() -> None:
    rig = Rig(1000)
    rig.keep(prompt(1, 2))
    longer = prompt(1, 2) + prompt(2, 1)
    assert rig.keep(longer) == [(2 * BLOCK_TOKENS, 3 * BLOCK_TOKENS)]
    assert rig.keep(longer) == []
    assert rig.found(longer) == longer
    assert rig.cache.nbytes == 3 * BLOCK_TOKENS


def test_a_branch_begins_in_the_middle_of_what_was_kept_as_one() -> None:
    rig = Rig(1000)
    rig.keep(prompt(1, 3))
    branch = prompt(1, 3)[:BLOCK_TOKENS] + prompt(2, 2)
    assert rig.keep(branch) == [(BLOCK_TOKENS, 3 * BLOCK_TOKENS)]
    assert rig.found(branch) == branch
    assert rig.found(prompt(1, 3)) == prompt(1, 3)


def test_the_same_tokens_after_others_are_not_the_same() -> None:
    rig = Rig(1000)
    rig.keep(prompt(1, 1) + prompt(2, 1))
    assert rig.found(prompt(2, 1)) == ()
    assert rig.found(prompt(3, 1) + prompt(2, 1)) == ()


def test_the_least_recently_used_goes_first() -> None:
    rig = Rig(4 * BLOCK_TOKENS)
    for name in (1, 2, 3, 4):
        rig.keep(prompt(name, 1))
    assert rig.found(prompt(1, 1))
    rig.keep(prompt(5, 1))
    assert [bool(rig.found(prompt(name, 1))) for name in (1, 2, 3, 4, 5)] == [
        True, False, True, True, True,
    ]  # fmt: skip
    assert rig.cache.nbytes == 4 * BLOCK_TOKENS


def test_a_beginning_outlives_what_follows_it() -> None:
    rig = Rig(4 * BLOCK_TOKENS)
    rig.keep(prompt(1, 1))
    rig.keep(prompt(1, 1) + prompt(2, 1))
    rig.keep(prompt(3, 3))
    assert rig.found(prompt(1, 1) + prompt(2, 1)) == prompt(1, 1)


def test_of_what_can_never_fit_the_beginning_is_kept() -> None:
    rig = Rig(2 * BLOCK_TOKENS + 5)
    assert rig.keep(prompt(1, 9)) == [(0, 2 * BLOCK_TOKENS)]
    assert rig.keep(prompt(1, 9)) == []
    assert rig.found(prompt(1, 9)) == prompt(1, 9)[: 2 * BLOCK_TOKENS]


def test_what_is_used_right_now_is_not_given_up_for_its_own_end() -> None:
    rig = Rig(3 * BLOCK_TOKENS)
    rig.keep(prompt(1, 2))
    rig.keep(prompt(1, 2) + prompt(2, 5))
    assert rig.found(prompt(1, 2) + prompt(2, 5)) == prompt(1, 2) + prompt(2, 1)


def test_the_version_changes_only_with_what_is_kept() -> None:
    rig = Rig(2 * BLOCK_TOKENS)
    rig.keep(prompt(1, 2))
    version = rig.cache.version
    rig.keep(prompt(1, 2))
    rig.found(prompt(1, 2))
    assert rig.cache.version == version
    rig.keep(prompt(2, 1))
    assert rig.cache.version > version


blocks = st.lists(st.integers(0, 2), max_size=6)


@given(st.lists(st.tuples(st.booleans(), blocks), max_size=40), st.integers(0, 8))
def test_never_beyond_its_bytes_and_never_other_tokens(
    steps: list[tuple[bool, list[int]]], capacity_blocks: int
) -> None:
    rig = Rig(capacity_blocks * BLOCK_TOKENS)
    for keeps, names in steps:
        tokens = [name for name in names for _ in range(BLOCK_TOKENS)]
        if keeps:
            before = len(rig.found(tokens))
            rig.keep(tokens)
            assert len(rig.found(tokens)) >= before
        found = rig.found(tokens)
        assert list(found) == tokens[: len(found)]
        assert rig.cache.nbytes <= capacity_blocks * BLOCK_TOKENS


def test_a_long_conversation_is_found_in_the_pieces_in_which_it_came() -> None:
    rig = Rig(10**9)
    conversation = prompt(1, 1000)
    for turn in range(1, 1001):
        rig.keep(conversation[: turn * BLOCK_TOKENS])
    assert len(rig.cache) == len(rig.cache.find(conversation)) == 1000
    assert rig.found(conversation) == conversation
