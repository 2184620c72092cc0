"""Finds stop texts in a stream of text chunks, without ever letting part of one through."""

from collections.abc import Sequence


class StopScanner:
    """Passes text on, except what could still turn out to begin a stop text.

    The match that is complete first wins, and of those complete at the same character the longest;
    so the outcome does not depend on how the text was cut into chunks.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._beginnings = {stop[:end] for stop in stops for end in range(1, len(stop))}
        self._longest_hold = max((len(stop) - 1 for stop in stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """The text that may be shown now, and the stop text that ended it, if one did."""
        text = self._held + text
        match = self._first_match(text)
        if match is not None:
            start, stop = match
            self._held = ""
            return text[:start], stop
        shown = len(text) - self._hold(text)
        self._held = text[shown:]
        return text[:shown], None

    def flush(self) -> str:
        """The rest, once no more text can come: it did not become a stop text."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        found = [(text.find(stop), stop) for stop in self._stops]
        matches = [(start, stop) for start, stop in found if start >= 0]
        return min(matches, key=lambda match: (match[0] + len(match[1]), match[0]), default=None)

    def _hold(self, text: str) -> int:
        """Length of the longest suffix that begins a stop text."""
        for length in range(min(self._longest_hold, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0
