"""Which tokenizers are read without transformers, and that both ways come to the same."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mlxmesh_generation.text.tokenizer import read_files
from tests.fakes import tokenizer_files

TEXTS = ("Grüße, 日本 👩‍👩‍👧 \n  end", "<s>one</s> two", "")


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    "write",
    [
        tokenizer_files.byte_level,
        tokenizer_files.with_bos,
        tokenizer_files.metaspace,
        tokenizer_files.word_piece,
    ],
)
def test_what_is_read_equals_what_transformers_makes_of_it(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    from transformers import AutoTokenizer

    directory = write(tmp_path / "files")
    files = read_files(directory)
    theirs: Any = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    assert files is not None
    assert dict(files.special_tokens) == theirs.special_tokens_map
    assert files.chat_template == theirs.chat_template
    for text in TEXTS:
        for special in (True, False):
            own = files.backend.encode(text, add_special_tokens=special).ids
            assert own == theirs.backend_tokenizer.encode(text, add_special_tokens=special).ids


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"add_bos_token": True},
        {"pad_token": "<not in the vocabulary>"},
        {"eos_token": {"content": "</s>", "lstrip": True}},
        {"chat_template": [{"name": "default", "template": "{{ messages }}"}]},
        {"something_new": 1},
    ],
)
def test_what_transformers_would_interpret_is_left_to_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    directory = tokenizer_files.byte_level(tmp_path / "files")
    change_config(directory, **changes)
    assert read_files(directory) is None


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
def test_files_that_change_the_tokens_are_left_to_transformers(tmp_path: Path, name: str) -> None:
    directory = tokenizer_files.byte_level(tmp_path / "files")
    (directory / name).write_text("{}", encoding="utf-8")
    assert read_files(directory) is None


def test_a_template_file_counts_before_the_one_in_the_configuration(tmp_path: Path) -> None:
    directory = tokenizer_files.byte_level(tmp_path / "files")
    change_config(directory, chat_template="another")
    files = read_files(directory)
    assert files is not None
    assert files.chat_template == tokenizer_files.CHAT_TEMPLATE


def test_a_tokenizer_without_its_json_file_is_left_to_transformers(tmp_path: Path) -> None:
    assert read_files(tokenizer_files.without_fast_form(tmp_path / "files")) is None


def test_transformers_is_not_imported_for_it(tmp_path: Path) -> None:
    directory = tokenizer_files.byte_level(tmp_path / "files")
    script = (
        "import sys; from pathlib import Path\n"
        "from mlxmesh_generation.text.tokenizer import ModelTokenizer\n"
        "tokenizer = ModelTokenizer.load(Path(sys.argv[1]))\n"
        "assert tokenizer.encode_prompt('one')\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(directory)], check=True, timeout=60)


def test_a_large_vocabulary_is_left_to_transformers(tmp_path: Path) -> None:
    directory = tokenizer_files.byte_level(tmp_path / "files")
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    state = json.loads(tokenizer.to_str())
    vocab: dict[str, int] = state["model"]["vocab"]
    vocab |= {f"extra{number}": number for number in range(len(vocab), 100_001)}
    Path(path).write_text(json.dumps(state), encoding="utf-8")
    assert read_files(directory) is None
