"""What an operating system's error about a file means to whoever runs the mesh."""

import errno
import shutil
from pathlib import Path

from mlxmesh_shared.errors import DiskFull, IllegalState, MeshError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NEXT_TO_NOTHING_BYTES = 256 * 1024


def disk_error(error: OSError, where: object = "") -> MeshError | None:
    """The error to tell, which says what to do; None where it is not about the disk.

    `where` is the file or directory, where the error itself does not name one.
    """
    place = str(error.filename or where or "the disk")
    if error.errno in DISK_FULL:
        return disk_full(place)
    if error.errno in _FORBIDDEN:
        return not_writable(place, error.strerror or "")
    return None


def disk_full(place: object, detail: str = "") -> DiskFull:
    """For a file or directory that nothing more can be written to."""
    why = f" ({detail})" if detail else ""
    return DiskFull(f"the disk is full{why}: free space in {place}, then try again")


def not_writable(place: object, why: str) -> MeshError:
    """For a file or directory that may not be written to."""
    return IllegalState(
        f"{place} cannot be written ({why.lower() or 'read-only'}); make it writable,"
        " or choose another --data-dir"
    )


def has_no_space(place: Path) -> bool:
    """Whether the disk under a file or directory is as good as full."""
    existing = next(path for path in (place, *place.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free < _NEXT_TO_NOTHING_BYTES
