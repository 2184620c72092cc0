"""`launcher.lock`: held by the one launcher that runs the mesh of a data directory.

The kernel gives the lock back when its holder ends, however that goes. It belongs to an open file,
so a process that starts a launcher may take it and hand it on.
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
# A holder writes its pid right after it has the lock.
NAME_TIMEOUT_S = 1.0


class DirectoryLock:
    """A held lock; `release` it, or let the process end."""

    def __init__(self, data_dir: Path, descriptor: int) -> None:
        """`descriptor` is that of a lock which this process inherited."""
        self.descriptor = descriptor
        self._path = data_dir / FILE_NAME
        os.set_inheritable(descriptor, False)

    @classmethod
    def take(cls, data_dir: Path) -> DirectoryLock:
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
            lock.name_holder(os.getpid())
        except BlockingIOError:
            os.close(descriptor)
            raise _held(data_dir) from None
        except OSError as error:
            os.close(descriptor)
            raise unusable_data_dir(data_dir, error) from None
        return lock

    def name_holder(self, pid: int, gateway: str = "") -> None:
        """Write down which process holds it from now on, and where its gateway is."""
        where = f", {gateway}" if gateway else ", starting"
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"launcher pid {pid}{where}\n".encode(), 0)

    def is_in_place(self) -> bool:
        """Whether the data directory still has this very file."""
        try:
            there, ours = self._path.stat(), os.fstat(self.descriptor)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def release(self) -> None:
        """Give it back. The file stays: to remove it would free the way for two holders."""
        os.close(self.descriptor)


def _held(data_dir: Path) -> IllegalState:
    deadline_s = time.monotonic() + NAME_TIMEOUT_S
    while not (holder := _holder(data_dir)) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return IllegalState(
        f"a mesh already runs in {data_dir} ({holder or 'which one is not known'}); stop it with"
        f" `mlxmesh down --data-dir {data_dir}`, or choose another --data-dir"
    )


def _holder(data_dir: Path) -> str:
    try:
        return (data_dir / FILE_NAME).read_text().strip()
    except OSError:
        return ""
