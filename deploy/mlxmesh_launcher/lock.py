"""`launcher.lock`: allows one launcher per data directory.

The kernel releases the lock when its holder ends for any reason. The lock belongs to an open file,
so a process can acquire it and pass it on to the launcher that it starts.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.process.startup import unusable_data_dir

FILE_NAME = "launcher.lock"
POLL_S = 0.05
# A holder writes its pid right after acquiring the lock.
NAME_TIMEOUT_S = 1.0


class DirectoryLock:
    """An acquired lock; released by `release` or the end of the process."""

    def __init__(self, data_dir: Path, descriptor: int) -> None:
        """`descriptor` is that of an inherited lock."""
        self.descriptor = descriptor
        self._path = data_dir / FILE_NAME
        os.set_inheritable(descriptor, False)

    @classmethod
    def acquire(cls, data_dir: Path) -> DirectoryLock:
        """Raises: IllegalState when another holds it, or the directory cannot be used."""
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            path = data_dir / FILE_NAME
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable_data_dir(data_dir, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock = cls(data_dir, descriptor)
            lock.write_holder(os.getpid())
        except BlockingIOError:
            os.close(descriptor)
            raise _held(data_dir) from None
        except OSError as error:
            os.close(descriptor)
            raise unusable_data_dir(data_dir, error) from None
        return lock

    def write_holder(self, pid: int, gateway: str = "") -> None:
        """Records the process that holds the lock, and its gateway's address."""
        where = f", {gateway}" if gateway else ", starting"
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"launcher pid {pid}{where}\n".encode(), 0)

    def is_in_place(self) -> bool:
        """Whether the data directory still contains this file."""
        try:
            there, ours = self._path.stat(), os.fstat(self.descriptor)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def release(self) -> None:
        """Releases the lock. The file stays: removing it would allow two holders."""
        os.close(self.descriptor)


def _held(data_dir: Path) -> IllegalState:
    deadline_s = time.monotonic() + NAME_TIMEOUT_S
    while not (holder := _holder(data_dir)) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return IllegalState(
        f"a mesh already runs in {data_dir} ({holder or 'unknown launcher'}); stop it with"
        f" `mlxmesh down --data-dir {data_dir}`, or choose another --data-dir"
    )


def _holder(data_dir: Path) -> str:
    try:
        return (data_dir / FILE_NAME).read_text().strip()
    except OSError:
        return ""
