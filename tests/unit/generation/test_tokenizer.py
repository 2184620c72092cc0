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
