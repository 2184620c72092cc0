"""Wraps streamed text between words at the width of a terminal. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from rich.cells import cell_len

TAB_CELLS = 4
# A line break, a run of blanks, or a run of anything else.
_PARTS = re.compile(r"\n|[ \t]+|[^ \t\n]+")


class WordWrap:
    """Wraps text that arrives in pieces of any size.

    A word is buffered until it is complete or wider than the terminal. A wider word starts on a new
    line and is wrapped by the terminal, so that a URL can still be copied. Lines may also break
    beside wide characters (Chinese, Japanese). `width` is called every time, because a terminal may
    be resized.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self._column = 0
        self._blanks = ""
        self._word = ""
        self._is_long = False

    def feed(self, text: str) -> str:
        """Adds text; returns what can be printed now."""
        shown = (self._part(part) for part in _PARTS.findall(printable(text)))
        return "".join(shown)

    def flush(self) -> str:
        """Returns the buffered rest; the next text starts at the first column."""
        rest = self._end_word()
        self._column, self._blanks = 0, ""
        return rest

    def _part(self, part: str) -> str:
        if part == "\n":
            shown = self._end_word() + "\n"
            self._column, self._blanks = 0, ""
            return shown
        if part[0] in " \t":
            shown = self._end_word()
            self._blanks += part.replace("\t", " " * TAB_CELLS)
            return shown
        return "".join(self._character(each) for each in part)

    def _character(self, character: str) -> str:
        shown = self._end_word() if self._may_break_before(character) else ""
        self._word += character
        if self._is_long or cell_len(self._word) > self._width():
            shown += self._put_word()
            self._is_long = True
        return shown

    def _may_break_before(self, character: str) -> bool:
        """Beside a wide character, unless punctuation or a combining mark follows."""
        if not self._word or self._is_long:
            return False
        if unicodedata.category(character)[0] in "PM" or unicodedata.category(character) == "Cf":
            return False
        return _is_wide(character) or _is_wide(self._word[-1])

    def _end_word(self) -> str:
        shown = self._put_word()
        self._is_long = False
        return shown

    def _put_word(self) -> str:
        """The buffered word, on a new line if it does not fit on this one."""
        word, self._word = self._word, ""
        if not word:
            return ""
        cells, width = cell_len(word), self._width()
        blanks, self._blanks = self._blanks, ""
        if self._column and not self._is_long and self._column + len(blanks) + cells > width:
            blanks, self._column = "\n", 0
        else:
            self._column += len(blanks)
        # The terminal wraps longer words; after a full line the cursor stays at its end.
        self._column = (self._column + cells - 1) % width + 1
        return blanks + word


def wrapped(text: str, width: int) -> str:
    """A whole text, wrapped."""
    wrap = WordWrap(lambda: width)
    return wrap.feed(text) + wrap.flush()


def printable(text: str) -> str:
    """The text with control characters replaced."""
    return "".join(
        each
        if each in "\n\t" or unicodedata.category(each) != "Cc"
        else "\N{REPLACEMENT CHARACTER}"
        for each in text.replace("\r", "")
    )


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
