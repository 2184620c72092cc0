"""The log file with what a process writes to stderr: bounded in size, and its last lines."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MAX_LOG_BYTES = 16 * 2**20
MAX_LOG_FILES = 4
TAIL_LINES = 50
TAIL_BYTES = 32 * 2**10


class LogFile:
    """One log that persists over restarts: NAME.log, and older parts NAME.log.1, NAME.log.2, ..."""

    def __init__(
        self, path: Path, *, max_bytes: int = MAX_LOG_BYTES, max_files: int = MAX_LOG_FILES
    ) -> None:
        """max_files: including the current file."""
        self.path = path
        self._max_bytes = max_bytes
        self._max_files = max_files

    def open_for_append(self) -> int:
        """A file descriptor for appending; the caller closes it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, line: str) -> None:
        """Appends a line from the supervisor."""
        descriptor = self.open_for_append()
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def rotate_if_large(self) -> None:
        """Copies the file to NAME.log.1 and truncates it once it is too large. Raises: OSError.

        The file is not renamed, because a running process appends to it with O_APPEND. The copy
        gets its name after the truncation, so that followers of the log see a new NAME.log.1 only
        when the file starts again.
        """
        if self._size_bytes() <= self._max_bytes:
            return
        if self._max_files > 1:
            draft = self.path.with_name(f".{self.path.name}.draft")
            try:
                shutil.copyfile(self.path, draft)
            except OSError:
                draft.unlink(missing_ok=True)  # on a full disk it would use the last space
                raise
            os.truncate(self.path, 0)
            for number in range(self._max_files - 1, 1, -1):
                if (newer := self.part(number - 1)).exists():
                    newer.replace(self.part(number))
            draft.replace(self.part(1))
        else:
            os.truncate(self.path, 0)

    def part(self, number: int) -> Path:
        """An older part; higher numbers are older."""
        return self.path.with_name(f"{self.path.name}.{number}")

    def tail(self, lines: int = TAIL_LINES) -> tuple[str, ...]:
        """The last lines, at most TAIL_BYTES in total; none if nothing was logged."""
        size = self._size_bytes()
        if size == 0:
            return ()
        with self.path.open("rb") as log:
            log.seek(max(0, size - TAIL_BYTES))
            text = log.read(TAIL_BYTES).decode(errors="replace")
        return tuple(text.splitlines()[-lines:])

    def _size_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0
