"""Checks whether the tool calls of one output parse. Pure."""

import json
import re
from collections.abc import Collection


class CallCheck:
    """Collects the calls of one output; a call parses if its arguments are one JSON object.

    A parser makes text of what begins as a call and is none, so a marker of calls in a text is a
    call that does not parse.
    """

    def __init__(self, markers: Collection[str] = ()) -> None:
        """`markers`: the texts that only calls have."""
        # One search costs less per token than one for each marker.
        self._marker = re.compile("|".join(map(re.escape, markers))) if markers else None
        self._overlap = max(map(len, markers), default=1) - 1
        self._text_end = ""
        self._broken = False
        self._calls: list[list[str]] = []

    def text(self, text: str) -> None:
        """The output has more text."""
        if self._marker is None or self._broken:
            return
        joined = self._text_end + text
        self._broken = self._marker.search(joined) is not None
        self._text_end = joined[-self._overlap :] if self._overlap else ""

    def begin(self) -> None:
        """The output has another call."""
        self._calls.append([])

    def arguments(self, text: str) -> None:
        """The last call has more arguments."""
        self._calls[-1].append(text)

    @property
    def valid(self) -> bool | None:
        """Whether every call parses; None without a call."""
        if self._broken:
            return False
        if not self._calls:
            return None
        return all(_is_object("".join(pieces)) for pieces in self._calls)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
