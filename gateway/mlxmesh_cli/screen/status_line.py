"""A line on a terminal that says what goes on, with a spinner."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.status import Status


class StatusLine:
    """Shows the latest text until the body ends; nothing where there is no terminal.

    Rich is imported with the first text, because it is slow to import: what the line is about has
    begun by then.
    """

    def __init__(self, *, err: bool = False) -> None:
        """`err`: on standard error instead of standard output."""
        self._err = err
        self._shown = (sys.stderr if err else sys.stdout).isatty()
        self._status: Status | None = None

    def update(self, text: str) -> None:
        """Replaces the text."""
        if self._status is not None:
            self._status.update(text)
        elif self._shown:
            from rich.console import Console

            self._status = Console(stderr=self._err).status(text)
            self._status.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
