"""Reads a tokenizer without transformers, which is slow to import, where its files say all.

They do when the class is the generic one and every setting is one that is known here to change
nothing in tokenizer.json. Else transformers has to interpret them.
Source: transformers 5.23, tokenization_utils_tokenizers.py, TokenizersBackend.__init__.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from mlxmesh_generation.text.detokenize import Detokenizer
from mlxmesh_generation.text.encoder_files import NO_ENCODER_FILES, EncoderFiles
from mlxmesh_generation.text.rendering import ChatTemplate
from mlxmesh_generation.text.special_text import SpecialTexts
from mlxmesh_generation.text.tokenizer_codecs import Codec, FastCodec, PlainCodec
from mlxmesh_shared.host.json_file import read_json_object

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
# From this version on, transformers detects and fixes pre-tokenizers that are known to be wrong.
_MAX_VOCAB_SIZE = 100_000


@dataclass(frozen=True)
class TokenizerFiles:
    """The contents of a tokenizer's files."""

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


class ModelTokenizer:
    """Blocks while it works on long text, but lets other threads run meanwhile."""

    def __init__(
        self,
        codec: Codec,
        chat: ChatTemplate | None,
        bos_token: str | None,
        encoder: EncoderFiles = NO_ENCODER_FILES,
        image_token_id: int | None = None,
    ) -> None:
        self._codec = codec
        self._bos_token = bos_token
        self.chat = chat
        self.encoder = encoder
        """What the model's files say about texts that are encoded."""
        self.image_token_id = image_token_id
        """The token that stands for an image in a prompt; None if the model reads none."""

    @classmethod
    def load(cls, directory: Path) -> "ModelTokenizer":
        """Reads a directory's tokenizer files; slow, and slower where transformers must help."""
        encoder = EncoderFiles.read(directory)
        files = read_files(directory)
        if files is None:
            return cls._load_with_transformers(directory, encoder)
        codec = FastCodec(files.backend)
        template = files.chat_template or _processors_template(directory)
        chat = _chat_template(template, files.special_tokens, codec)
        bos_token, image_token_id = (
            files.special_tokens.get("bos_token"),
            _image_token_id(directory),
        )
        return cls(codec, chat, bos_token, encoder, image_token_id)

    @classmethod
    def _load_with_transformers(cls, directory: Path, encoder: EncoderFiles) -> "ModelTokenizer":
        loaded = _import_transformers().AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        codec = FastCodec(loaded.backend_tokenizer) if loaded.is_fast else PlainCodec(loaded)
        template = loaded.chat_template or _processors_template(directory)
        chat = _chat_template(template, loaded.special_tokens_map, codec)
        return cls(codec, chat, loaded.bos_token, encoder, _image_token_id(directory))

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of raw text, with the special tokens that the model expects around it.

        Source: mlx_lm.generate, which adds no second BOS to a prompt that begins with one.
        """
        has_bos = self._bos_token is not None and text.startswith(self._bos_token)
        return self._codec.encode(text, add_special_tokens=not has_bos)

    def encode_rendered(self, text: str, *, has_marks: bool = False) -> list[int]:
        """Ids of a rendered chat template, which holds its special tokens already.

        What is marked in it is text, even where it reads like a special token.
        """
        if has_marks:
            return self._codec.encode_marked(text)
        return self._codec.encode(text, add_special_tokens=False)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of text that continues what was tokenized before; none of them is special."""
        marked, has_marks = self._special_texts.marked(text)
        return self.encode_rendered(marked, has_marks=has_marks)

    def pieces(self, texts: Sequence[str], *, before: str = "") -> list[Any]:
        """The tokens of texts without special tokens around them; none of the texts' is special.

        before: what the model's files put before each text. A piece has a length in tokens.
        """
        marked = [self._special_texts.marked(text) for text in texts]
        has_marks = any(has for _, has in marked)
        return self._codec.pieces([before + text for text, _ in marked], marked=has_marks)

    def piece_ids(self, piece: Any) -> list[int]:
        """The ids of a piece alone."""
        return self._codec.piece_ids(piece)

    def shorten(self, piece: Any, tokens: int) -> None:
        """Cuts a piece behind so many tokens."""
        self._codec.shorten(piece, tokens)

    def frame_tokens(self, *, pair: bool = False) -> int:
        """How many special tokens one text or a pair of texts gets."""
        return self._codec.frame_tokens(pair=pair)

    def framed(self, first: Any, second: Any | None = None) -> tuple[list[int], int]:
        """The ids of one or two pieces with special tokens, and where the second one begins.

        That is 0 for one piece, and for tokenizers that do not tell texts apart.
        """
        return self._codec.framed(first, second)

    @cached_property
    def _special_texts(self) -> SpecialTexts:
        return SpecialTexts(self._codec.special_texts)

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """The ids of special and other added tokens, by their texts."""
        return self._codec.added_tokens

    @cached_property
    def added_texts(self) -> frozenset[str]:
        """The texts of special and other added tokens."""
        return frozenset(self._codec.added_tokens)

    @property
    def max_token_bytes(self) -> int | None:
        """The most bytes of text that one token encodes; None when unknown."""
        return self._codec.max_token_bytes

    def decode(self, token_ids: Sequence[int]) -> str:
        """The one-shot decode, special tokens left out."""
        return self._codec.decode(list(token_ids))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token's text, or those of a special token's name.

        Those of all tokens of a text, joined, are the text, but for spaces of the decoder.
        """
        return self._codec.token_bytes(token_id)

    def detokenizer(self, visible: frozenset[str] = frozenset()) -> Detokenizer:
        """A new one, for one sequence; it shows the special tokens with a text in `visible`."""
        return self._codec.detokenizer(visible)


def _import_transformers() -> Any:
    """Takes seconds the first time, so it is left to the first tokenizer that needs it."""
    # Else it complains on stderr that there is no PyTorch, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    return importlib.import_module("transformers")


def _image_token_id(directory: Path) -> int | None:
    path = directory / "config.json"
    config = read_json_object(path) if path.is_file() else {}
    token_id = config.get("image_token_id", config.get("image_token_index"))
    return token_id if isinstance(token_id, int) else None


def _processors_template(directory: Path) -> Any:
    """The chat template of a processor of images, which has a file of its own; None without."""
    path = directory / "chat_template.json"
    return read_json_object(path).get("chat_template") if path.is_file() else None


def _chat_template(
    source: Any, special_tokens: Mapping[str, Any], codec: Codec
) -> ChatTemplate | None:
    if isinstance(source, dict):
        source = cast("dict[str, str]", source).get("default")
    if not source:
        return None
    variables = {name: token for name, token in special_tokens.items() if isinstance(token, str)}
    return ChatTemplate(source, variables, tuple(codec.special_texts))
