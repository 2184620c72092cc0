"""Finds the end of a JSON value in text that arrives in pieces. Pure.

Models write JSON that is nearly right, so only the nesting is checked: brackets, strings, and that
a value does not follow a value.
"""

import re
from enum import Enum

from mlxmesh_generation.parsers.markers import SPACE

_SCALAR = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.")
_CLOSING = {"{": "}", "[": "]"}
_STRING_END = re.compile(r'["\\]')
_BEFORE_VALUE = frozenset("{[,:")


class Progress(Enum):
    OPEN = "open"
    """The value continues."""
    DONE = "done"
    """The value is whole."""
    BROKEN = "broken"
    """What follows cannot belong to a JSON value."""


class JsonValue:
    """The extent of one value that begins with the next character."""

    def __init__(self) -> None:
        self.progress = Progress.OPEN
        self._closing: list[str] = []
        self._in_string = False
        self._escaped = False
        self._last = ","
        """The last character that is not white space, outside strings."""

    def read(self, text: str) -> int:
        """How many characters of `text` belong to the value; sets `progress`."""
        at = 0
        while at < len(text) and self.progress is Progress.OPEN:
            at = self._read_string(text, at) if self._in_string else self._read_other(text, at)
        return at

    def _read_string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        match = _STRING_END.search(text, at)
        if match is None:
            return len(text)
        if match.group() == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self._end_value('"')
        return match.end()

    def _read_other(self, text: str, at: int) -> int:
        character = text[at]
        if character in SPACE:
            # A number or a word has no other end than what follows it.
            if not self._closing and self._last in _SCALAR:
                self.progress = Progress.DONE
                return at
            return at + 1
        if character in _SCALAR:
            return self._take(character, at)
        if not self._closing and self._last in _SCALAR:
            self.progress = Progress.DONE
            return at
        if character in '{["':
            return self._open(character, at)
        if self._closing and character == self._closing[-1]:
            self._closing.pop()
            self._end_value(character)
            return at + 1
        if self._closing and character in ",:":
            return self._take(character, at)
        self.progress = Progress.BROKEN
        return at

    def _open(self, character: str, at: int) -> int:
        if self._last not in _BEFORE_VALUE:
            self.progress = Progress.BROKEN
            return at
        if character == '"':
            self._in_string = True
        else:
            self._closing.append(_CLOSING[character])
        return self._take(character, at)

    def _take(self, character: str, at: int) -> int:
        self._last = character
        return at + 1

    def _end_value(self, character: str) -> None:
        self._last = character
        if not self._closing:
            self.progress = Progress.DONE


_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNICODE_LENGTH = 6
_HIGH_SURROGATES = range(0xD800, 0xDC00)
_LOW_SURROGATES = range(0xDC00, 0xE000)


class JsonString:
    """Decodes the inside of a JSON string; an escape that JSON does not know stays as written."""

    def __init__(self) -> None:
        self._held = ""

    def read(self, text: str) -> str:
        """The characters that this text completes; ends before a closing quotation mark."""
        text = self._held + text
        decoded: list[str] = []
        at = 0
        while (start := text.find("\\", at)) >= 0:
            decoded.append(text[at:start])
            character, length = _escape(text[start : start + 2 * _UNICODE_LENGTH])
            if not length:
                break
            decoded.append(character)
            at = start + length
        else:
            start = len(text)
            decoded.append(text[at:])
        self._held = text[start:]
        return "".join(decoded)

    def flush(self) -> str:
        """An escape that was cut, as it was written."""
        held, self._held = self._held, ""
        return held


def _escape(text: str) -> tuple[str, int]:
    """The character of the escape at the beginning, and its length; 0 if it is not whole yet."""
    if len(text) < len(r"\n"):
        return "", 0
    if text[1] != "u":
        return _ESCAPES.get(text[1], text[:2]), 2
    if len(text) < _UNICODE_LENGTH:
        return "", 0
    high = _code_unit(text)
    if high is None:
        return text[:2], 2
    if high not in _HIGH_SURROGATES:
        return (chr(high) if high not in _LOW_SURROGATES else "\ufffd"), _UNICODE_LENGTH
    return _pair(high, text[_UNICODE_LENGTH:])


def _pair(high: int, following: str) -> tuple[str, int]:
    if r"\u".startswith(following[:2]) and len(following) < _UNICODE_LENGTH:
        return "", 0
    low = _code_unit(following)
    if low is None or low not in _LOW_SURROGATES:
        return "\ufffd", _UNICODE_LENGTH
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)), 2 * _UNICODE_LENGTH


def _code_unit(text: str) -> int | None:
    match = re.match(r"\\u([0-9a-fA-F]{4})", text)
    return int(match.group(1), 16) if match else None
