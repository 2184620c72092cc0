"""An engine's log file: what its process writes to stderr, bounded, and its last lines."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MAX_LOG_BYTES = 8 * 2**20
TAIL_LINES = 50
TAIL_BYTES = 32 * 2**10


class LogFile:
    """The log of one engine, kept over its restarts; at most two files of MAX_LOG_BYTES."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def open_for_append(self) -> int:
        """A file descriptor to append to; the caller closes it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, line: str) -> None:
        """Add one line of the runtime's own."""
        descriptor = self.open_for_append()
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def rotate_if_large(self) -> None:
        """Keep one older copy and empty the file once it is too large.

        The file is copied and truncated, not renamed: a running process goes on appending to it.
        """
        if self._size_bytes() > self._max_bytes:
            shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.1"))
            os.truncate(self.path, 0)

    def tail(self, lines: int = TAIL_LINES) -> tuple[str, ...]:
        """The last lines, of at most TAIL_BYTES together; none when nothing was logged."""
        size = self._size_bytes()
        if size == 0:
            return ()
        with self.path.open("rb") as log:
            log.seek(max(0, size - TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return tuple(text.splitlines()[-lines:])

    def _size_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0
