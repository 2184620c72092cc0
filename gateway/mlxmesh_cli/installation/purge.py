"""Deletes the data of a mesh."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mlxmesh_cli.installation.service import Scope
from mlxmesh_cli.installation.systemd import STATE_DIR
from mlxmesh_cli.mesh.location import resolve_data_dir, with_data_dir
from mlxmesh_launcher.lock import FILE_NAME
from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import IllegalState


def purged_dir(scope: Scope, data_dir: Path | None) -> Path:
    """The data directory to delete."""
    if scope == Scope.SYSTEM and data_dir is None and sys.platform != "darwin":
        return STATE_DIR
    return resolve_data_dir(data_dir)


def purge(data_dir: Path) -> bool:
    """Deletes it; returns whether it was there. Raises: IllegalState, OSError.

    Only a directory in which a mesh has run, and runs no more, is deleted.
    """
    if not data_dir.exists():
        return False
    if read_record(data_dir) is not None:
        down = with_data_dir("down", data_dir)
        raise IllegalState(f"a mesh still runs in {data_dir}; stop it with `{down}` first")
    target = data_dir.resolve()
    if not (target / FILE_NAME).exists() or target in (Path.home(), Path("/")):
        raise IllegalState(
            f"{data_dir} does not look like the data directory of a mesh (it has no {FILE_NAME});"
            " delete it yourself if you are sure"
        )
    shutil.rmtree(target)
    if data_dir.is_symlink():
        data_dir.unlink()  # systemd keeps the state of its own accounts in /var/lib/private
    return True
