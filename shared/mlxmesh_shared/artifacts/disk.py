"""The file system under the store: writing, linking, free space, and making names durable."""

import errno
import os
import shutil
from pathlib import Path
from typing import Protocol
from uuid import uuid4

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS)


class Disk(Protocol):
    """The operations that a full disk can end, and what it has free. Raises: OSError."""

    def write_at(self, path: Path, offset: int, chunk: bytes) -> None:
        """Writes a chunk and truncates the file after it; at offset 0 the file is a new one."""
        ...

    def link(self, source: Path, target: Path) -> bool:
        """Gives a file a second name at once; returns False where it had to be copied."""
        ...

    def free_bytes(self, place: Path) -> int:
        """Bytes that are free on the disk of a file or directory, which may not exist yet."""
        ...


class LocalDisk:
    """The operating system's file system."""

    def write_at(self, path: Path, offset: int, chunk: bytes) -> None:
        """Writes a chunk; see the port."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not offset:
            # A new file: the present one may share its bytes with another name.
            path.unlink(missing_ok=True)
        with path.open("r+b" if offset else "xb") as file:
            file.seek(offset)
            file.write(chunk)
            file.truncate()

    def link(self, source: Path, target: Path) -> bool:
        """A hard link, or a copy where the file system has none; see the port."""
        try:
            self._hard_link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            new = target.with_name(f".{uuid4().hex}")
            shutil.copyfile(source, new)
            sync(new)
            new.replace(target)
            return False
        return True

    def _hard_link(self, source: Path, target: Path) -> None:
        target.hardlink_to(source)

    def free_bytes(self, place: Path) -> int:
        """The free bytes; see the port."""
        existing = next(path for path in (place, *place.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free


def sync(path: Path) -> None:
    """Makes the content of a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
