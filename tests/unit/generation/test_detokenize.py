"""However the tokens are cut into steps, the pieces joined are the one-shot decode."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlxmesh_generation.text.tokenizer import ModelTokenizer

# Joined emoji, a flag, Thai and Devanagari with combining marks, CJK beyond the BMP, a lone mark.
HARD = "👩‍👩‍👧‍👦 🇨🇭 สวัสดีครับ नमस्ते 𠮷野家 e\u0301 \u0301 ﷽ \ufffd a\ufffd\ufffd 日本語"
FAMILIES = ("byte_level", "byte_level_in_sequence", "metaspace", "word_piece", "plain")

texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=HARD, max_size=40),
    st.sampled_from([HARD, "  two  spaces ", "\n\n\t x", "don't stop . now ?"]),
)
chunks = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@pytest.fixture(scope="session", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> ModelTokenizer:
    return request.getfixturevalue(request.param)


def pieces(
    tokenizer: ModelTokenizer, token_ids: Sequence[int], chunk_sizes: Sequence[int]
) -> list[str]:
    detokenizer = tokenizer.detokenizer()
    found: list[str] = []
    sizes, start = itertools.cycle(chunk_sizes), 0
    while start < len(token_ids):
        end = start + next(sizes)
        found.append(detokenizer.feed(token_ids[start:end]))
        start = end
    return [*found, detokenizer.flush()]


# The vocabularies differ in size; an id beyond one of them has no text, as in a padded model.
@given(token_ids=st.lists(st.integers(0, 520), max_size=60), chunk_sizes=chunks)
@example(token_ids=[0, 1, 2, 259, 3, 259, 2, 259], chunk_sizes=[1])
def test_any_tokens_join_to_the_one_shot_decode(
    tokenizer: ModelTokenizer, token_ids: list[int], chunk_sizes: list[int]
) -> None:
    assert "".join(pieces(tokenizer, token_ids, chunk_sizes)) == tokenizer.decode(token_ids)


@given(text=texts, chunk_sizes=chunks)
def test_any_text_joins_to_the_one_shot_decode(
    tokenizer: ModelTokenizer, text: str, chunk_sizes: list[int]
) -> None:
    token_ids = tokenizer.encode_rendered(text)
    assert "".join(pieces(tokenizer, token_ids, chunk_sizes)) == tokenizer.decode(token_ids)


@given(text=texts)
def test_no_piece_of_legal_text_holds_half_a_character(
    byte_level: ModelTokenizer, byte_level_in_sequence: ModelTokenizer, text: str
) -> None:
    legal = text.replace("\ufffd", "")
    for tokenizer in (byte_level, byte_level_in_sequence):
        found = pieces(tokenizer, tokenizer.encode_rendered(legal), [1])
        assert not any("\ufffd" in piece for piece in found)
        assert "".join(found) == legal


def test_text_is_not_held_back_longer_than_it_must(tokenizer: ModelTokenizer) -> None:
    token_ids = tokenizer.encode_rendered("one two three")
    shown = "".join(pieces(tokenizer, token_ids, [1])[:-1])
    assert shown == tokenizer.decode(token_ids)


def test_endless_illegal_bytes_are_shown_as_they_come(
    byte_level_in_sequence: ModelTokenizer,
) -> None:
    illegal = _byte_id(byte_level_in_sequence, 0xFF, None)
    detokenizer = byte_level_in_sequence.detokenizer()
    shown = sum(len(detokenizer.feed([illegal])) for _ in range(3000))
    assert 2990 < shown <= 3000
    assert shown + len(detokenizer.flush()) == 3000


@given(raw=st.binary(max_size=40), chunk_sizes=chunks)
def test_bytes_that_are_no_utf8_become_what_the_one_shot_decode_makes_of_them(
    byte_level: ModelTokenizer,
    byte_level_in_sequence: ModelTokenizer,
    metaspace: ModelTokenizer,
    raw: bytes,
    chunk_sizes: list[int],
) -> None:
    families = ((byte_level, None), (byte_level_in_sequence, None), (metaspace, 3))
    for tokenizer, first_byte in families:
        token_ids = [_byte_id(tokenizer, byte, first_byte) for byte in raw]
        joined = "".join(pieces(tokenizer, token_ids, chunk_sizes))
        assert joined == tokenizer.decode(token_ids)


def _byte_id(tokenizer: ModelTokenizer, byte: int, first_byte: int | None) -> int:
    if first_byte is not None:
        return first_byte + byte
    order = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order += [value for value in range(256) if value not in order]
    return 3 + order.index(byte)
