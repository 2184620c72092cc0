"""A file system that is full after a number of bytes; runs everywhere."""

import errno
from pathlib import Path

from mlxmesh_shared.artifacts.disk import LocalDisk


class LimitedDisk(LocalDisk):
    """Files are real; writes fail with ENOSPC once `left_bytes` were written."""

    def __init__(self, left_bytes: int, *, told_bytes: int | None = None) -> None:
        self.left_bytes = left_bytes
        self.told_bytes = told_bytes
        """What is told to be free, if that is not the truth."""

    def write_at(self, path: Path, offset: int, chunk: bytes) -> None:
        """Writes what fits of the chunk, as file systems do."""
        fitting = chunk[: self.left_bytes]
        self.left_bytes -= len(fitting)
        super().write_at(path, offset, fitting)
        if len(fitting) < len(chunk):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def free_bytes(self, place: Path) -> int:
        return self.left_bytes if self.told_bytes is None else self.told_bytes


class LinklessDisk(LocalDisk):
    """A file system without hard links, such as exFAT."""

    def _hard_link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(source))
