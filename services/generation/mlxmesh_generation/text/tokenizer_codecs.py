"""The libraries that tokenize: `tokenizers` for nearly all models, transformers for the others."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache, cached_property, partial
from typing import Any, Protocol, cast

from tokenizers import Tokenizer

from mlxmesh_generation.text.detokenize import ByteDetokenizer, Detokenizer, WindowDetokenizer
from mlxmesh_generation.text.special_text import MARK, without_marks

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"
"""What sentencepiece writes for a space."""
_REPLACEMENT = "\ufffd"
_BYTES = 256


class Codec(Protocol):
    """Text to ids and back."""

    @property
    def special_texts(self) -> Collection[str]: ...
    @property
    def added_tokens(self) -> Mapping[str, int]: ...
    @property
    def max_token_bytes(self) -> int | None: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def encode_marked(self, text: str) -> list[int]: ...
    def decode(self, token_ids: list[int]) -> str: ...
    def detokenizer(self, visible: frozenset[str]) -> Detokenizer: ...
    def token_bytes(self, token_id: int) -> bytes: ...

    # Texts that are encoded. A piece is a text without special tokens; its type is the codec's.

    def pieces(self, texts: list[str], *, marked: bool) -> list[Any]: ...
    def piece_ids(self, piece: Any) -> list[int]: ...
    def shorten(self, piece: Any, tokens: int) -> None:
        """Cuts a piece behind so many tokens."""
        ...

    def frame_tokens(self, *, pair: bool) -> int:
        """How many special tokens one text or a pair gets."""
        ...

    def framed(self, first: Any, second: Any | None) -> tuple[list[int], int]:
        """Ids with special tokens, and where the second text begins by the token types, else 0."""
        ...


class FastCodec:
    """Over the `tokenizers` library, past transformers, whose wrapper is not safe in threads."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        added: dict[int, Any] = backend.get_added_tokens_decoder()
        special = {number: token.content for number, token in added.items() if token.special}
        self._special: Mapping[int, str] = special
        self.special_texts = frozenset(special.values())
        self.added_tokens = {token.content: number for number, token in added.items()}
        decoder = backend.decoder
        self._byte_level = decoder is not None and type(decoder).__name__ == "ByteLevel"
        vocabulary: dict[str, int] = backend.get_vocab()
        self._byte_tokens = frozenset(
            number for token, number in vocabulary.items() if _BYTE_TOKEN.fullmatch(token)
        )
        drops_nothing = self._byte_level and _drops_nothing(backend, added.values())
        # In a byte-level vocabulary one character stands for one byte, but in added tokens.
        self.max_token_bytes = (
            max(len(token.encode()) for token in vocabulary) if drops_nothing else None
        )
        # One token's bytes never change, and a generation asks for the same few again and again.
        self._token_bytes = cache(self._read_token_bytes)
        self._single_bytes = cache(self._read_single_bytes)
        self._visible_ids = cache(self._read_visible_ids)
        self._decoder: bytes = decoder.__getstate__() if decoder is not None else b""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # The batch call lets other threads run; `encode` would stop every stream of this process.
        [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return encoding.ids

    def encode_marked(self, text: str) -> list[int]:
        [encoding] = self._without_marks.encode_batch_fast([text], add_special_tokens=False)
        return encoding.ids

    def pieces(self, texts: list[str], *, marked: bool) -> list[Any]:
        backend = self._without_marks if marked else self._backend
        return backend.encode_batch_fast(texts, add_special_tokens=False)

    def piece_ids(self, piece: Any) -> list[int]:
        return piece.ids

    def shorten(self, piece: Any, tokens: int) -> None:
        piece.truncate(tokens)

    def frame_tokens(self, *, pair: bool) -> int:
        return self._backend.num_special_tokens_to_add(pair)

    def framed(self, first: Any, second: Any | None) -> tuple[list[int], int]:
        encoding = self._backend.post_process(first, second, True)
        return encoding.ids, 0 if second is None else _first_one(encoding.type_ids)

    @cached_property
    def _without_marks(self) -> Tokenizer:
        """The same tokenizer, which drops marks once it has found the special tokens.

        Takes as long to make, and as much memory, as the tokenizer itself; few requests need it.
        """
        state = json.loads(self._backend.to_str())
        for token in state["added_tokens"]:
            # Else a token is looked for where the marks are gone already.
            token["normalized"] = token["normalized"] and not token["special"]
        drop = {"type": "Replace", "pattern": {"String": MARK}, "content": ""}
        normalizers = [drop, *filter(None, [state["normalizer"]])]
        state["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
        return Tokenizer.from_str(json.dumps(state))

    def decode(self, token_ids: list[int]) -> str:
        return self._backend.decode(token_ids, skip_special_tokens=True)

    def detokenizer(self, visible: frozenset[str]) -> Detokenizer:
        shown = self._visible_ids(visible)
        if self._byte_level:
            return ByteDetokenizer(
                partial(self._shown_bytes, shown) if shown else self._token_bytes
            )
        decode = self._decode_all if shown else self.decode
        skipped = partial(self._skipped, shown)
        return WindowDetokenizer(decode, skipped=skipped, byte_tokens=self._byte_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        return self._single_bytes(token_id)

    def _decode_all(self, token_ids: list[int]) -> str:
        return self._backend.decode(token_ids, skip_special_tokens=False)

    def _read_visible_ids(self, visible: frozenset[str]) -> frozenset[int]:
        return frozenset(number for number, text in self._special.items() if text in visible)

    def _skipped(self, shown: frozenset[int], token_id: int) -> bool:
        if token_id in self._special:
            return token_id not in shown
        return self._backend.id_to_token(token_id) is None

    def _shown_bytes(self, shown: frozenset[int], token_id: int) -> bytes:
        return (
            self._special[token_id].encode() if token_id in shown else self._token_bytes(token_id)
        )

    def _read_single_bytes(self, token_id: int) -> bytes:
        token: str | None = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._special:
            return token.encode()
        if b'"ByteLevel"' in self._decoder:
            return self._token_bytes(token_id)
        if token_id in self._byte_tokens:
            return _byte_of(token)
        return _spaced(token, self._decoder).encode()

    def _read_token_bytes(self, token_id: int) -> bytes:
        token: str | None = self._backend.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        alphabet = _byte_level_alphabet()
        try:
            return bytes(alphabet[character] for character in token)
        except KeyError:  # an added token, kept as it is written
            return token.encode()


class PlainCodec:
    """Over a transformers tokenizer that has no fast form."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        special_ids = cast("list[int]", tokenizer.all_special_ids)
        self._special: Mapping[int, str] = {
            number: tokenizer.convert_ids_to_tokens(number) for number in special_ids
        }
        self._size = len(tokenizer)
        self.special_texts = frozenset(cast("list[str]", tokenizer.all_special_tokens))
        self.added_tokens = cast("dict[str, int]", tokenizer.get_added_vocab())
        self.max_token_bytes = None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def encode_marked(self, text: str) -> list[int]:
        token_ids: list[int] = []
        either = "|".join(map(re.escape, sorted(self.special_texts, key=len, reverse=True)))
        for piece in re.split(f"({either})", text):
            if piece in self.special_texts:
                token_ids.append(self._tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                token_ids += self._tokenizer.encode(
                    without_marks(piece), add_special_tokens=False, split_special_tokens=True
                )
        return token_ids

    def pieces(self, texts: list[str], *, marked: bool) -> list[Any]:
        if marked:
            return list(map(self.encode_marked, texts))
        return [self.encode(text, add_special_tokens=False) for text in texts]

    def piece_ids(self, piece: Any) -> list[int]:
        return piece

    def shorten(self, piece: Any, tokens: int) -> None:
        del piece[tokens:]

    def frame_tokens(self, *, pair: bool) -> int:
        return self._tokenizer.num_special_tokens_to_add(pair)

    def framed(self, first: Any, second: Any | None) -> tuple[list[int], int]:
        ids = self._tokenizer.build_inputs_with_special_tokens(first, second)
        if second is None:
            return ids, 0
        types = self._tokenizer.create_token_type_ids_from_sequences(first, second)
        return ids, _first_one(types)

    def decode(self, token_ids: list[int]) -> str:
        skipped = partial(self._skipped, frozenset[str]())
        return self._decode_all([token_id for token_id in token_ids if not skipped(token_id)])

    def detokenizer(self, visible: frozenset[str]) -> Detokenizer:
        skipped = partial(self._skipped, visible)
        return WindowDetokenizer(self._decode_all, skipped=skipped, byte_tokens=frozenset())

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._special:
            return self._special[token_id].encode()
        if token_id >= self._size:
            return b""
        token: str = self._tokenizer.convert_ids_to_tokens(token_id)
        if _BYTE_TOKEN.fullmatch(token):
            return _byte_of(token)
        if _SPACE in token:
            return token.replace(_SPACE, " ").encode()
        return self._text_bytes(token_id, token)

    def _text_bytes(self, token_id: int, token: str) -> bytes:
        text = self._decode_all([token_id])
        # A part of a character has no text; tokens of raw bytes are single characters.
        if (not text or _REPLACEMENT in text) and len(token) == 1 and ord(token) < _BYTES:
            return bytes([ord(token)])
        return text.encode()

    def _decode_all(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)

    def _skipped(self, visible: frozenset[str], token_id: int) -> bool:
        if token_id in self._special:
            return self._special[token_id] not in visible
        return token_id >= self._size


def _drops_nothing(backend: Tokenizer, added: Iterable[Any]) -> bool:
    """Whether every byte of a text is in one of its tokens."""
    splits: bytes = backend.pre_tokenizer.__getstate__() if backend.pre_tokenizer else b""
    strips = any(token.lstrip or token.rstrip for token in added)
    return backend.normalizer is None and b"Removed" not in splits and not strips


def _first_one(token_types: list[int]) -> int:
    return token_types.index(1) if 1 in token_types else 0


def _byte_of(token: str) -> bytes:
    return bytes([int(token[3:5], 16)])


def _spaced(token: str, decoder: bytes) -> str:
    """A token of a vocabulary that is not of bytes, with its spaces."""
    if b'"WordPiece"' in decoder:
        prefix = str(json.loads(decoder).get("prefix", ""))
        return token.removeprefix(prefix) if prefix else token
    return token.replace(_SPACE, " ") if _SPACE.encode() in decoder else token


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """Which byte each character of a byte-level vocabulary stands for.

    Source: bytes_to_unicode in openai/gpt-2, src/encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + index): byte for index, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
