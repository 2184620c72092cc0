"""One model's tokenizer: text to token ids and back."""

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mlxmesh_generation.detokenize import Detokenizer
from mlxmesh_generation.rendering import ChatTemplate
from mlxmesh_generation.tokenizer_codecs import Codec, FastCodec, PlainCodec
from mlxmesh_generation.tokenizer_files import read_files


class ModelTokenizer:
    """Blocks while it works on long text, but lets other threads run meanwhile."""

    def __init__(self, codec: Codec, chat: ChatTemplate | None, bos_token: str | None) -> None:
        self._codec = codec
        self._bos_token = bos_token
        self.chat = chat

    @classmethod
    def load(cls, directory: Path) -> "ModelTokenizer":
        """Reads a directory's tokenizer files; slow, and slower where transformers must help."""
        files = read_files(directory)
        if files is None:
            return cls._load_with_transformers(directory)
        codec = FastCodec(files.backend)
        chat = _chat_template(files.chat_template, files.special_tokens, codec)
        return cls(codec, chat, files.special_tokens.get("bos_token"))

    @classmethod
    def _load_with_transformers(cls, directory: Path) -> "ModelTokenizer":
        loaded = _import_transformers().AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        codec = FastCodec(loaded.backend_tokenizer) if loaded.is_fast else PlainCodec(loaded)
        chat = _chat_template(loaded.chat_template, loaded.special_tokens_map, codec)
        return cls(codec, chat, loaded.bos_token)

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

    @property
    def max_token_bytes(self) -> int | None:
        """No token stands for more bytes of a text; None where that cannot be told."""
        return self._codec.max_token_bytes

    def decode(self, token_ids: Sequence[int]) -> str:
        """The one-shot decode, special tokens left out."""
        return self._codec.decode(list(token_ids))

    def detokenizer(self) -> Detokenizer:
        """A new one, for one sequence."""
        return self._codec.detokenizer()


def _import_transformers() -> Any:
    """Takes seconds the first time, so it is left to the first tokenizer that needs it."""
    # Else it complains on stderr that there is no PyTorch, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    return importlib.import_module("transformers")


def _chat_template(
    source: Any, special_tokens: Mapping[str, Any], codec: Codec
) -> ChatTemplate | None:
    if isinstance(source, dict):
        source = cast("dict[str, str]", source).get("default")
    if not source:
        return None
    variables = {name: token for name, token in special_tokens.items() if isinstance(token, str)}
    return ChatTemplate(source, variables, tuple(codec.special_texts))
