"""Finds the ids of words in a tokenizer's vocabulary."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from mlxmesh_shared.host.json_file import UnusableJson, read_json_object


def find_token_ids(model_dir: Path, words: Sequence[str]) -> list[int | None]:
    """The id of each word that is one token; None for the others.

    Reads tokenizer.json, or vocab.json without it.
    """
    vocabulary = _vocabulary(model_dir)
    ids = (vocabulary.get(word) for word in words)
    return [each if isinstance(each, int) else None for each in ids]


def _vocabulary(model_dir: Path) -> dict[str, object]:
    try:
        if (model_dir / "tokenizer.json").is_file():
            tokenizer = read_json_object(model_dir / "tokenizer.json")
            return _object(_object(tokenizer.get("model")).get("vocab"))
        return read_json_object(model_dir / "vocab.json")
    except (UnusableJson, FileNotFoundError):
        return {}


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
