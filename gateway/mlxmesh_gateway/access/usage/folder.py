"""Batches of usage on disk, until they are delivered."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from pathlib import Path

from mlxmesh_gateway.access.policy_file import write_private
from mlxmesh_gateway.access.usage.convert import batch_id_of

_log = logging.getLogger(__name__)

FOLDER_NAME = "gateway-usage"
_LOCK = "lock"
_Adopted = tuple[float, str, bytes]
"""When a batch was written, its id, and the encoded request."""


class UsageFolder:
    """A folder of this gateway's own, beside those of other gateways of the data directory.

    A lock shows that its gateway lives; the batches of one that has died are adopted. Blocking:
    to be called on a thread, by one call at a time.
    """

    def __init__(self, data_dir: Path, instance_id: str) -> None:
        self._all = data_dir / FOLDER_NAME
        self._own = self._all / instance_id
        self._lock: int | None = None

    def write(self, batch_id: str, encoded: bytes) -> None:
        """Writes or replaces a batch. Raises: OSError."""
        self._open()
        write_private(self._path(batch_id), encoded)

    def remove(self, batch_id: str) -> None:
        """Forgets a batch that was delivered or given up."""
        with contextlib.suppress(OSError):
            self._path(batch_id).unlink(missing_ok=True)

    def adopt(self) -> list[tuple[str, bytes]]:
        """Takes over the batches of gateways that have died, the oldest first; with their ids."""
        adopted: list[_Adopted] = []
        with contextlib.suppress(FileNotFoundError):
            for folder in list(self._all.iterdir()):
                if folder != self._own and folder.is_dir():
                    adopted += self._adopt_from(folder)
        return [(batch_id, encoded) for _, batch_id, encoded in sorted(adopted)]

    def close(self) -> None:
        """Leaves what is still there to the next gateway."""
        if self._lock is None:
            return
        if not any(self._own.glob("*.binpb")):
            _remove_folder(self._own)
        os.close(self._lock)
        self._lock = None

    def _path(self, batch_id: str) -> Path:
        return self._own / f"{batch_id}.binpb"

    def _open(self) -> None:
        if self._lock is None:
            self._own.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(self._own / _LOCK)
            if self._lock is None:  # another gateway is just adopting the empty folder
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _adopt_from(self, folder: Path) -> list[_Adopted]:
        lock = _locked(folder / _LOCK)
        if lock is None:
            return []  # its gateway lives
        try:
            self._open()
            adopted = [self._adopt_file(path) for path in folder.glob("*.binpb")]
            _remove_folder(folder)
        except OSError as error:
            _log.error("usage in %s cannot be adopted yet: %s", folder, error.strerror)
            return []
        finally:
            os.close(lock)
        return [one for one in adopted if one is not None]

    def _adopt_file(self, path: Path) -> _Adopted | None:
        written_s, encoded = path.stat().st_mtime, path.read_bytes()
        try:
            batch_id = batch_id_of(encoded)
        except ValueError:
            _log.error("%s is not a batch of usage; it is left out", path)
            path.unlink()
            return None
        path.replace(self._own / path.name)
        return written_s, batch_id, encoded


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock; None if another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
