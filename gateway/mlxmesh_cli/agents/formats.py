"""Formats of configuration files: text in, text out, with everything else left as it was."""

from __future__ import annotations

from typing import Any, Protocol

KeyPath = tuple[str, ...]
"""Keys from the top; in a list, the `name` of an item."""


class UnusableFile(ValueError):
    """A file that cannot be edited; the message says why, and what to do."""


class Format(Protocol):
    """Reads and edits the text of a file. An empty text is an empty file."""

    def read(self, text: str) -> dict[str, Any]:
        """The data. Raises: UnusableFile."""
        ...

    def with_value(self, text: str, path: KeyPath, value: Any) -> str:
        """The text with this value at the path. Raises: UnusableFile."""
        ...

    def without(self, text: str, path: KeyPath) -> str:
        """The text without the path, which is there. Raises: UnusableFile."""
        ...
