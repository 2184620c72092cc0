"""Whose turn it is to tend the fleet: of the model services on one catalogue, one at a time."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path
from typing import IO

POLL_S = 0.1


class Turn:
    """A lock on a file; its process's end, however it comes, passes it on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def take(self) -> bool:
        """Whether it is this process's turn now; it stays so until `release`."""
        if self._file is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    async def wait(self) -> None:
        """Returns once it is this process's turn."""
        while not self.take():  # noqa: ASYNC110  nobody tells when a file's lock is free
            await asyncio.sleep(POLL_S)

    def release(self) -> None:
        """Passes the turn on."""
        if self._file is not None:
            self._file.close()
            self._file = None
