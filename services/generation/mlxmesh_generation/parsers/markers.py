"""Finds markers in text that arrives in pieces. Pure."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

SPACE = " \t\r\n"


class Found(NamedTuple):
    """The text before a marker, and the marker; empty if none was found yet."""

    before: str
    marker: str


class TextBuffer:
    """Text that was fed and not yet taken; what is taken does not depend on how it was fed."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, text: str) -> None:
        self.text += text

    def take(self, length: int) -> str:
        """Takes this many characters."""
        taken, self.text = self.text[:length], self.text[length:]
        return taken

    def take_all(self) -> str:
        taken, self.text = self.text, ""
        return taken

    def take_space(self) -> str:
        """Takes the white space at the beginning."""
        return self.take(len(self.text) - len(self.text.lstrip(SPACE)))

    def take_until(self, markers: "Markers") -> Found:
        """Takes the text before the first marker, and the marker.

        Without one it takes what cannot belong to a marker, and leaves a possible beginning.
        """
        found = markers.search(self.text)
        if found is None:
            return Found(self.take(len(self.text) - markers.held(self.text)), "")
        start, marker = found
        before = self.take(start)
        self.take(len(marker))
        return Found(before, marker)

    def take_marker(self, markers: "Markers") -> str | None:
        """Takes a marker that the text begins with; empty if it begins with none, None if it may
        become one.
        """
        found = markers.search(self.text)
        if found is not None and found[0] == 0:
            return self.take(len(found[1]))
        return None if markers.held(self.text) == len(self.text) else ""


class Markers:
    """Some texts that are looked for together.

    The first that begins wins; of those that begin at the same character, the longest.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        ordered = sorted(set(texts), key=lambda text: (-len(text), text))
        self._any = re.compile("|".join(map(re.escape, ordered)))
        self._beginnings = {text[:end] for text in ordered for end in range(1, len(text))}
        self._max_held = max(map(len, ordered)) - 1

    @staticmethod
    @lru_cache(maxsize=256)
    def of(*texts: str) -> "Markers":
        """The same object for the same texts."""
        return Markers(texts)

    def search(self, text: str) -> tuple[int, str] | None:
        """The first marker and where it begins; None if none is certain yet."""
        match = self._any.search(text)
        if match is None:
            return None
        held = self.held(text)
        # What begins no later may still become a marker, which would win.
        if held and len(text) - held <= match.start():
            return None
        return match.start(), match.group()

    def held(self, text: str) -> int:
        """The length of the longest suffix that may become a marker."""
        for length in range(min(self._max_held, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0
