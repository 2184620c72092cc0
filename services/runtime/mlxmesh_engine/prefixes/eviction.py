"""Keeps the prefixes of all models of a host within a number of bytes: the least recently used go.

Engines of different models, and other versions of one, share the bytes. A file lock lets one engine
at a time delete files.
"""

import fcntl
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_engine.prefixes.identity import WEIGHTS

SUFFIX = ".prefix"
# Below the limit, so that not every write deletes a file.
_TARGET = 0.9
# What an engine that ended left half written.
_ABANDONED_S = 600.0


@dataclass(frozen=True, slots=True)
class _File:
    used_ns: int
    nbytes: int
    path: Path


class Evictions:
    """Used by one thread."""

    def __init__(self, root: Path, limit_bytes: int, clock: Callable[[], float]) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._written = 0
        """Since the last count of all files."""
        self._counted: int | None = None
        self.deletions = 0
        """Files that were deleted to make room."""

    def written(self, nbytes: int) -> None:
        self._written += nbytes

    def make_room(self, nbytes: int, keep: Path) -> bool:
        """Deletes files until there is room for so many bytes; False if there cannot be.

        keep: the caller's directory, which is not deleted when it is empty.
        """
        if nbytes > _TARGET * self._limit_bytes:
            return False
        # Others write too: now and then all files are counted.
        stale = self._written > self._limit_bytes // 16
        if self._counted is not None and not stale and self._fits(nbytes):
            return True
        files = list(self._files())
        self._counted, self._written = sum(file.nbytes for file in files), 0
        if self._fits(nbytes):
            return True
        with self._lock() as locked:
            if locked:
                self._delete(files, nbytes, keep)
        return self._fits(nbytes)

    def _fits(self, nbytes: int) -> bool:
        assert self._counted is not None
        return self._counted + self._written + nbytes <= self._limit_bytes

    def _delete(self, files: list[_File], nbytes: int, keep: Path) -> None:
        left = sum(file.nbytes for file in files)
        for file in sorted(files, key=lambda each: each.used_ns):
            if left + nbytes <= _TARGET * self._limit_bytes:
                break
            file.path.unlink(missing_ok=True)
            self.deletions += 1
            left -= file.nbytes
        for folder in self._folders():
            if folder != keep:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()
        self._counted = left

    def _files(self) -> Iterator[_File]:
        """All files of all models; deletes abandoned ones."""
        for folder in self._folders():
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(OSError):
                        stat = entry.stat()
                        if entry.name.endswith(SUFFIX):
                            yield _File(stat.st_mtime_ns, stat.st_size, Path(entry.path))
                        elif self._clock() - stat.st_mtime > _ABANDONED_S:
                            Path(entry.path).unlink()

    def _folders(self) -> list[Path]:
        return [each for each in self._root.iterdir() if each.is_dir() and each.name != WEIGHTS]

    @contextmanager
    def _lock(self) -> Generator[bool]:
        descriptor = os.open(self._root / "eviction.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _try_lock(descriptor)
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
