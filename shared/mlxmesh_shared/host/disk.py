"""Translates operating system errors about files into errors that say what to do."""

import errno
import shutil
from pathlib import Path

from mlxmesh_shared.errors import DiskFull, IllegalState, MeshError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_MIN_FREE_BYTES = 256 * 1024


def disk_error(error: OSError, where: object = "") -> MeshError | None:
    """The error to report; None if it is not about the disk.

    where: the file or directory, for an error that names none.
    """
    place = str(error.filename or where or "the disk")
    if error.errno in DISK_FULL:
        return disk_full(place)
    if error.errno in _FORBIDDEN:
        return not_writable(place, error.strerror or "")
    return None


def disk_full(place: object, detail: str = "") -> DiskFull:
    """The error for a file or directory on a full disk."""
    why = f" ({detail})" if detail else ""
    return DiskFull(f"the disk is full{why}: free space in {place}, then try again")


def not_writable(place: object, why: str) -> MeshError:
    """The error for a file or directory without write permission."""
    return IllegalState(
        f"{place} cannot be written ({why.lower() or 'read-only'}); make it writable,"
        " or choose another --data-dir"
    )


def has_no_space(place: Path) -> bool:
    """Whether the disk of a file or directory is practically full."""
    existing = next(path for path in (place, *place.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free < _MIN_FREE_BYTES
