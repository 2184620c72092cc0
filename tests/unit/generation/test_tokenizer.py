from pathlib import Path

import pytest

from mlxmesh_generation.text.tokenizer import ModelTokenizer
from tests.fakes import tokenizer_files


def test_text_survives_there_and_back(byte_level: ModelTokenizer) -> None:
    text = "Grüße, 日本 👩‍👩‍👧 \n  end"
    assert byte_level.decode(byte_level.encode_prompt(text)) == text


def test_special_tokens_have_no_text(byte_level: ModelTokenizer) -> None:
    token_ids = byte_level.encode_rendered("<s>one</s>")
    assert token_ids[0] == 1
    assert token_ids[-1] == 2
    assert byte_level.decode(token_ids) == "one"


def test_a_long_text_is_not_truncated(byte_level: ModelTokenizer) -> None:
    text = "word " * 20_000
    assert byte_level.decode(byte_level.encode_prompt(text)) == text


def test_the_models_own_chat_template_is_used(byte_level: ModelTokenizer) -> None:
    assert byte_level.chat is not None
    assert byte_level.chat.source == tokenizer_files.CHAT_TEMPLATE
    assert byte_level.chat.variables["bos_token"] == "<s>"


def test_a_model_may_have_no_chat_template(metaspace: ModelTokenizer) -> None:
    assert metaspace.chat is None


@pytest.mark.parametrize(("prompt", "bos"), [("one", 1), ("<s>one", 1), ("<s><s>one", 2)])
def test_a_prompt_gets_one_bos_and_keeps_its_own(tmp_path: Path, prompt: str, bos: int) -> None:
    tokenizer = ModelTokenizer.load(tokenizer_files.with_bos(tmp_path / "files"))
    assert tokenizer.encode_prompt(prompt).count(1) == bos
    assert tokenizer.encode_rendered("one").count(1) == 0


def test_a_tokenizer_without_a_fast_form_works(plain: ModelTokenizer) -> None:
    text = "Grüße 👩‍👩‍👧"
    assert plain.decode(plain.encode_rendered(text)) == text


BYTES_TEXT = "the fox; naïve 🫠 日本 x"


@pytest.mark.parametrize("name", ["byte_level", "byte_level_in_sequence", "metaspace", "plain"])
def test_the_bytes_of_all_tokens_are_the_text(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: ModelTokenizer = request.getfixturevalue(name)
    token_ids = tokenizer.encode_rendered(BYTES_TEXT)
    joined = b"".join(map(tokenizer.token_bytes, token_ids)).decode()
    # Sentencepiece puts a space before the first word, which decoding drops.
    assert joined == (f" {BYTES_TEXT}" if name == "metaspace" else BYTES_TEXT)
    assert len(token_ids) > len(BYTES_TEXT.split())


def test_a_byte_token_is_one_byte_and_a_special_token_its_text(
    byte_level: ModelTokenizer, metaspace: ModelTokenizer, word_piece: ModelTokenizer
) -> None:
    [*_, last] = metaspace.encode_rendered("🫠")
    assert metaspace.token_bytes(last) == "🫠".encode()[-1:]
    for tokenizer in (byte_level, metaspace, word_piece):
        assert tokenizer.token_bytes(2) == b"</s>"
        assert tokenizer.token_bytes(9_999) == b""
    pieces = [word_piece.token_bytes(each) for each in word_piece.encode_rendered("foxes")]
    assert b"".join(pieces) == b"foxes"


@pytest.mark.parametrize("name", ["byte_level", "byte_level_in_sequence", "metaspace", "plain"])
def test_a_detokenizer_shows_the_special_tokens_that_it_is_told_to(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: ModelTokenizer = request.getfixturevalue(name)
    specials = [each for each in range(3) if tokenizer.token_bytes(each) in (b"</s>", b"<unk>")]
    text = tokenizer.encode_rendered("日本 x")
    token_ids = [specials[0], *text, *specials, *text]
    hidden = tokenizer.detokenizer()
    assert hidden.feed(token_ids) + hidden.flush() == tokenizer.decode(token_ids)
    shown = tokenizer.detokenizer(frozenset({"</s>"}))
    pieces = "".join(shown.feed([token_id]) for token_id in token_ids) + shown.flush()
    assert pieces.count("</s>") == sum(
        tokenizer.token_bytes(token_id) == b"</s>" for token_id in token_ids
    )
    assert "<unk>" not in pieces
    assert pieces.replace("</s>", "").replace(" ", "") == "日本x日本x"
