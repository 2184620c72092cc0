"""Decodes token ids incrementally; the pieces joined equal the one-shot decode.

A character may be spread over several tokens, and a token's text may depend on its neighbours, so
text is held back until no later token can change it. The cost is linear in the number of tokens.
"""

import codecs
from collections.abc import Callable, Iterable, Set
from typing import Protocol

_REPLACEMENT = "\ufffd"
# Bounds the window when a model generates only illegal bytes.
_MAX_PENDING_TOKENS = 1024


class Detokenizer(Protocol):
    """The text of one sequence."""

    def feed(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete; may be empty."""
        ...

    def flush(self) -> str:
        """The text still held back, at the end of the sequence."""
        ...


class ByteDetokenizer:
    """For byte-level vocabularies, where every token stands for fixed bytes of UTF-8."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_ids: Iterable[int]) -> str:
        return self._utf8.decode(b"".join(map(self._token_bytes, token_ids)))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class WindowDetokenizer:
    """For every other vocabulary: decodes a short window twice and takes the difference.

    The window begins with the tokens of the last text that was passed on, so that a decoder which
    treats the first token differently (leading spaces) sees it in its context.
    A run of byte tokens (`<0xE2>`) is held until it ends, because one illegal byte turns the whole
    run into replacement characters.
    Source: the prefix and read offsets of Hugging Face text-generation-inference.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        *,
        skipped: Callable[[int], bool],
        byte_tokens: Set[int],
    ) -> None:
        """`skipped` tells the tokens that have no text, such as special ones."""
        self._decode = decode
        self._skipped = skipped
        self._byte_tokens = byte_tokens
        self._shown: list[int] = []
        self._pending: list[int] = []
        self._pending_shown_characters = 0

    def feed(self, token_ids: Iterable[int]) -> str:
        fresh = [token_id for token_id in token_ids if not self._skipped(token_id)]
        if not fresh:
            return ""
        self._pending += fresh
        if fresh[-1] in self._byte_tokens:
            return ""
        text = self._pending_text()
        # One replacement character at the end may be the first bytes of a character.
        if text.endswith(_REPLACEMENT) and len(self._pending) < _MAX_PENDING_TOKENS:
            return self._show(text[:-1])
        return self._show_all(text)

    def flush(self) -> str:
        return self._show_all(self._pending_text()) if self._pending else ""

    def _show(self, text: str) -> str:
        """The part of a prefix of the pending text that was not sent before."""
        fresh = text[self._pending_shown_characters :]
        self._pending_shown_characters += len(fresh)
        return fresh

    def _show_all(self, text: str) -> str:
        fresh = self._show(text)
        if text:
            self._shown, self._pending = self._pending, []
            self._pending_shown_characters = 0
        return fresh

    def _pending_text(self) -> str:
        context = self._decode(self._shown) if self._shown else ""
        return self._decode(self._shown + self._pending)[len(context) :]
