"""The lines of a file that arrives in pieces, with at most one of them in memory. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINE_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank."""

    number: int
    """From 1, counting blank lines."""
    end: int
    """The offset after it, with its line break."""
    text: bytes
    """Without its line break; cut off where it is too long."""
    too_long: bool = False


class LineSplitter:
    """Cuts pieces of a file into lines."""

    def __init__(self, *, offset: int = 0, lines: int = 0) -> None:
        """offset: where the first piece begins, at the start of a line.

        lines: before it, for their numbers.
        """
        self._position = offset
        self._number = lines
        self._begun = bytearray()
        self._skipped = False

    def feed(self, piece: bytes) -> Iterator[Line]:
        """The lines that end in the piece."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            yield from self._ended(piece[start:end], end + 1 - start)
            start = end + 1
        rest = piece[start:]
        self._position += len(rest)
        self._keep(rest)

    def finish(self) -> Iterator[Line]:
        """The last line, if no line break ends it."""
        if self._begun or self._skipped:
            yield from self._ended(b"", 0)

    def _ended(self, rest: bytes, length: int) -> Iterator[Line]:
        self._keep(rest)
        self._position += length
        self._number += 1
        text, too_long = bytes(self._begun), self._skipped
        self._begun.clear()
        self._skipped = False
        if too_long or text.strip():
            yield Line(self._number, self._position, text, too_long)

    def _keep(self, part: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._begun)
        if len(part) > room:
            self._skipped = True
        self._begun += part[:room]
