"""The last lines that a program has written, without secrets."""

from collections import deque
from collections.abc import Iterable

from mlxmesh_tools.domain.limits import cut

MAX_LINES = 20
MAX_CHARACTERS = 300
"""Of one line."""
_MIN_SECRET_CHARACTERS = 4
"""Shorter values would hide too much of what is no secret."""


class Tail:
    """Takes bytes as they come."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """secrets: texts that are replaced wherever they appear."""
        long = {each for each in secrets if len(each) >= _MIN_SECRET_CHARACTERS}
        self._secrets = sorted(long, key=len, reverse=True)
        self._lines = deque[str](maxlen=MAX_LINES)
        self._rest = b""

    def add(self, chunk: bytes) -> None:
        """More output."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[:16_384]
        for line in lines[-MAX_LINES:]:
            self._append(line)

    def last_line(self) -> str:
        """The last line with something in it; empty without."""
        lines = [*self._lines, self._shown(self._rest)]
        return next((line for line in reversed(lines) if line.strip()), "")

    def _append(self, line: bytes) -> None:
        self._lines.append(self._shown(line))

    def _shown(self, line: bytes) -> str:
        return self.without_secrets(line[:16_384].decode("utf-8", "replace"))

    def without_secrets(self, text: str) -> str:
        """A text as it may be shown."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return cut(text.replace("\t", " "), MAX_CHARACTERS).strip()
