"""Reads a tokenizer without transformers, which is slow to import, where its files say all.

They do when the class is the generic one and every setting is one that is known here to change
nothing in tokenizer.json. Else transformers has to interpret them.
Source: transformers 5.23, tokenization_utils_tokenizers.py, TokenizersBackend.__init__.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from mlxmesh_shared.json_file import read_json_object

_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "mask_token")
_HARMLESS = {
    *_SPECIAL_TOKENS,
    "tokenizer_class",
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",
    "model_max_length",
}
# These change the tokens or the templates in ways that are not repeated here.
_OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", "chat_templates")
# From here on transformers looks for, and mends, pre-tokenizers that are known to be wrong.
_MAX_VOCAB_SIZE = 100_000


@dataclass(frozen=True)
class TokenizerFiles:
    """What a tokenizer's files say."""

    backend: Tokenizer
    special_tokens: Mapping[str, str]
    """By their role, such as bos_token."""
    chat_template: str | None


def read_files(directory: Path) -> TokenizerFiles | None:
    """None when only transformers knows what the files mean.

    Raises: OSError, UnusableJson, or whatever tokenizers makes of damaged files.
    """
    config_path, tokenizer_path = directory / "tokenizer_config.json", directory / "tokenizer.json"
    if not config_path.is_file() or not tokenizer_path.is_file():
        return None
    config = read_json_object(config_path)
    if not _is_plain(config) or any((directory / name).exists() for name in _OTHER_FILES):
        return None
    backend = Tokenizer.from_file(str(tokenizer_path))
    special_tokens = {name: config[name] for name in _SPECIAL_TOKENS if config.get(name)}
    if not _knows(backend, special_tokens):
        return None
    template_path = directory / "chat_template.jinja"
    template = config.get("chat_template")
    if template_path.is_file():
        template = template_path.read_text(encoding="utf-8")
    return TokenizerFiles(backend, special_tokens, template or None)


def _is_plain(config: Mapping[str, Any]) -> bool:
    texts = (config.get(name) for name in (*_SPECIAL_TOKENS, "chat_template"))
    return (
        config.get("tokenizer_class") in _GENERIC_CLASSES
        and config.keys() <= _HARMLESS
        and all(text is None or isinstance(text, str) for text in texts)
    )


def _knows(backend: Tokenizer, special_tokens: Mapping[str, str]) -> bool:
    added = cast("dict[int, Any]", backend.get_added_tokens_decoder())
    known = {token.content for token in added.values() if token.special}
    return known.issuperset(special_tokens.values()) and (
        backend.get_vocab_size() <= _MAX_VOCAB_SIZE
    )
