"""One model's tokenizer: text to token ids and back."""

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from mlxmesh_generation.chat import ChatTemplate
from mlxmesh_generation.detokenize import ByteDetokenizer, Detokenizer, WindowDetokenizer
from mlxmesh_generation.tokenizer_files import read_files

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class ModelTokenizer:
    """Blocks while it works on long text, but lets other threads run meanwhile."""

    def __init__(self, codec: "_Codec", chat: ChatTemplate | None, bos_token: str | None) -> None:
        self._codec = codec
        self._bos_token = bos_token
        self.chat = chat

    @classmethod
    def load(cls, directory: Path) -> "ModelTokenizer":
        """Reads a directory's tokenizer files; slow, and slower where transformers must help."""
        files = read_files(directory)
        if files is None:
            return cls._load_with_transformers(directory)
        chat = _chat_template(files.chat_template, files.special_tokens)
        return cls(_FastCodec(files.backend), chat, files.special_tokens.get("bos_token"))

    @classmethod
    def _load_with_transformers(cls, directory: Path) -> "ModelTokenizer":
        loaded = _import_transformers().AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        codec = _FastCodec(loaded.backend_tokenizer) if loaded.is_fast else _PlainCodec(loaded)
        chat = _chat_template(loaded.chat_template, loaded.special_tokens_map)
        return cls(codec, chat, loaded.bos_token)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of raw text, with the special tokens that the model expects around it.

        Source: mlx_lm.generate, which adds no second BOS to a prompt that begins with one.
        """
        has_bos = self._bos_token is not None and text.startswith(self._bos_token)
        return self._codec.encode(text, add_special_tokens=not has_bos)

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a rendered chat template, which holds its special tokens already."""
        return self._codec.encode(text, add_special_tokens=False)

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


def _chat_template(source: Any, special_tokens: Mapping[str, Any]) -> ChatTemplate | None:
    if isinstance(source, dict):
        source = cast("dict[str, str]", source).get("default")
    if not source:
        return None
    variables = {name: token for name, token in special_tokens.items() if isinstance(token, str)}
    return ChatTemplate(source, variables=variables)


class _Codec(Protocol):
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, token_ids: list[int]) -> str: ...
    def detokenizer(self) -> Detokenizer: ...


class _FastCodec:
    """Over the `tokenizers` library, past transformers, whose wrapper is not safe in threads."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        added: dict[int, Any] = backend.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)
        decoder = backend.decoder
        self._byte_level = decoder is not None and type(decoder).__name__ == "ByteLevel"
        self._byte_tokens = frozenset(
            number
            for token, number in cast("dict[str, int]", backend.get_vocab()).items()
            if _BYTE_TOKEN.fullmatch(token)
        )
        # One token's bytes never change, and a generation asks for the same few again and again.
        self._token_bytes = cache(self._read_token_bytes)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # The batch call lets other threads run; `encode` would stop every stream of this process.
        [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return encoding.ids

    def decode(self, token_ids: list[int]) -> str:
        return self._backend.decode(token_ids, skip_special_tokens=True)

    def detokenizer(self) -> Detokenizer:
        if self._byte_level:
            return ByteDetokenizer(self._token_bytes)
        return WindowDetokenizer(self.decode, skipped=self._skipped, byte_tokens=self._byte_tokens)

    def _skipped(self, token_id: int) -> bool:
        return token_id in self._special or self._backend.id_to_token(token_id) is None

    def _read_token_bytes(self, token_id: int) -> bytes:
        token: str | None = self._backend.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        alphabet = _byte_level_alphabet()
        try:
            return bytes(alphabet[character] for character in token)
        except KeyError:  # an added token, kept as it is written
            return token.encode()


class _PlainCodec:
    """Over a transformers tokenizer that has no fast form."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(cast("list[int]", tokenizer.all_special_ids))
        self._size = len(tokenizer)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(
            [token_id for token_id in token_ids if not self._skipped(token_id)],
            clean_up_tokenization_spaces=False,
        )

    def detokenizer(self) -> Detokenizer:
        return WindowDetokenizer(self.decode, skipped=self._skipped, byte_tokens=frozenset())

    def _skipped(self, token_id: int) -> bool:
        return token_id in self._special or token_id >= self._size


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """Which byte each character of a byte-level vocabulary stands for.

    Source: bytes_to_unicode in openai/gpt-2, src/encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + index): byte for index, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
