"""Turns Python literals into JSON while they arrive. Pure."""

import json
import re

from mlxmesh_generation.parsers.json_text import Progress
from mlxmesh_generation.parsers.markers import SPACE

_WORDS = {"True": "true", "False": "false", "None": "null"}
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_WRITTEN = {"(": "[", ")": "]"}
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0",
    "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": "",
}  # fmt: skip
_PLAIN = re.compile(r"[^\\\"']+")
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_SURROGATES = range(0xD800, 0xE000)
_LOW_SURROGATES = range(0xDC00, 0xE000)


class PythonString:
    """The JSON text of a Python string, without the quotation marks."""

    def __init__(self) -> None:
        self._escape = ""
        self._high = 0
        """A high surrogate, which the next escape may complete."""

    @property
    def is_escaped(self) -> bool:
        """Whether the next character belongs to an escape, whatever it is."""
        return self._escape == "\\"

    @property
    def is_plain(self) -> bool:
        """Whether no escape has begun."""
        return not self._escape

    def read_plain(self, text: str) -> str:
        """Characters without a backslash, while no escape has begun."""
        return self.flush() + _quoted(text)

    def read(self, character: str) -> str:
        """The text that this character completes."""
        if self._escape:
            return self._read_escape(character)
        if character == "\\":
            self._escape = character
            return ""
        return self.flush() + _quoted(character)

    def flush(self) -> str:
        """What was held back, at the end of the string."""
        escape, self._escape = self._escape, ""
        high, self._high = self._high, 0
        return ("\ufffd" if high else "") + _quoted(escape)

    def _read_escape(self, character: str) -> str:
        self._escape += character
        kind, digits = self._escape[1], self._escape[2:]
        length = _HEX_LENGTHS.get(kind, 0)
        if digits and not re.fullmatch(r"[0-9a-fA-F]+", digits):
            # Not an escape: what it looked like stays as written.
            self._escape = self._escape[:-1]
            return self.flush() + self.read(character)
        if len(digits) < length:
            return ""
        escape, self._escape = self._escape, ""
        if length:
            return self._code(int(escape[2:], 16))
        return self.flush() + _quoted(_ESCAPES.get(kind, escape))

    def _code(self, code: int) -> str:
        if code in _LOW_SURROGATES and self._high:
            high, self._high = self._high, 0
            return _quoted(chr(0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)))
        held = self.flush()
        if code in _SURROGATES and code not in _LOW_SURROGATES:
            self._high = code
            return held
        is_character = code < 0x110000 and code not in _SURROGATES
        return held + _quoted(chr(code) if is_character else "\ufffd")


class PythonValue:
    """The extent of one literal, and its JSON text.

    What is no literal becomes a string with the text as it is written.
    """

    def __init__(self) -> None:
        self.progress = Progress.OPEN
        self._closing: list[str] = []
        self._quote = ""
        self._string = PythonString()
        self._word = ""
        self._word_depth = 0
        """Open brackets in what is no literal, such as a call."""
        self._comma = ""

    def read(self, text: str) -> tuple[str, int]:
        """The JSON text, and how many characters it took; sets `progress`.

        The value ends before a comma or a closing bracket that is not its own.
        """
        written: list[str] = []
        at = 0
        while at < len(text) and self.progress is Progress.OPEN:
            if self._quote:
                piece, at = self._read_string(text, at)
                written.append(piece)
            elif self._ends(text[at]):
                written.append(self.flush())
                self.progress = Progress.DONE
            else:
                written.append(self._read_other(text[at]))
                at += 1
        return "".join(written), at

    def flush(self) -> str:
        """A word or an escape that ended with the text."""
        return self._string.flush() if self._quote else self._take_word()

    def _ends(self, character: str) -> bool:
        return not self._closing and not self._word_depth and character in ",)]}"

    def _read_string(self, text: str, at: int) -> tuple[str, int]:
        """What the next characters become, and where they end."""
        plain = _PLAIN.match(text, at)
        if plain is not None and self._string.is_plain:
            return self._string.read_plain(plain.group()), plain.end()
        if text[at] == self._quote and not self._string.is_escaped:
            self._quote = ""
            return self._string.flush() + '"', at + 1
        return self._string.read(text[at]), at + 1

    def _read_other(self, character: str) -> str:
        if self._word and (self._word_depth or character in _CLOSING):
            self._word += character
            self._word_depth += (character in _CLOSING) - (character in ")]}")
            return ""
        if character in "\"'" and not self._word:
            self._quote, self._string = character, PythonString()
            return self._take_comma() + '"'
        if character in SPACE and not self._word:
            return ""
        if self._closing and character == self._closing[-1]:
            word = self._take_word()
            self._comma = ""  # a comma before a closing bracket is legal in Python only
            self._closing.pop()
            return word + _WRITTEN.get(character, character)
        if character in _CLOSING:
            self._closing.append(_CLOSING[character])
            return self._take_comma() + _WRITTEN.get(character, character)
        if self._closing and character in ",:":
            word = self._take_word()
            if character == ",":
                self._comma = ", "
                return word
            return word + ": "
        self._word += character
        return ""

    def _take_word(self) -> str:
        word, self._word = self._word.strip(SPACE), ""
        if not word:
            return ""
        is_json = word in _WORDS.values() or _NUMBER.fullmatch(word)
        written = word if is_json else _WORDS.get(word) or f'"{_quoted(word)}"'
        return self._take_comma() + written

    def _take_comma(self) -> str:
        comma, self._comma = self._comma, ""
        return comma


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
