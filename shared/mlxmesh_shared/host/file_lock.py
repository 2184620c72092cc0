"""A lock between the tasks and processes of one host."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path
from typing import IO

POLL_S = 0.1


class FileLock:
    """An exclusive lock on a file; the operating system releases it when the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._file is not None

    def try_acquire(self) -> bool:
        """Whether this object has the lock now; it keeps it until `release`."""
        if self._file is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    async def acquire(self) -> None:
        """Returns once this object has the lock."""
        while not self.try_acquire():  # noqa: ASYNC110  no event reports that a file lock is free
            await asyncio.sleep(POLL_S)

    def release(self) -> None:
        """Gives the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None
