"""Errors that end a pull or an import."""

import asyncio
from pathlib import Path

from mlxmesh_shared.errors import Cancelled, Internal, MeshError, ServiceUnavailable
from mlxmesh_shared.host.disk import disk_error


def failure_of(error: BaseException, models_dir: Path) -> MeshError:
    """The error to report for any exception that ended a pull or an import."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return interrupted()
    if isinstance(error, OSError):
        return disk_error(error, models_dir) or ServiceUnavailable(
            f"the model cannot be written ({error.strerror}); check the disk under {models_dir},"
            " then try again"
        )
    return Internal("the pull failed; see the log of the model service")


def interrupted() -> MeshError:
    """The error of a pull or an import that was cancelled."""
    return Cancelled("the pull was interrupted; pull again to continue it")
