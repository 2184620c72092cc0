"""A mesh in the background: started as a process of its own, found and stopped by its record."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from mlxmesh_launcher.mesh import SERVICES, MeshOptions
from mlxmesh_launcher.provision import Report
from mlxmesh_launcher.record import FILE_NAME, LauncherRecord, already_running, read_record
from mlxmesh_shared.errors import ServiceUnavailable

POLL_S = 0.1
RESUME_INTERVAL_S = 1.0
# The launcher gives each service its grace, and a little to end in.
STOP_TIMEOUT_S = len(SERVICES) * (MeshOptions.stop_grace_s + 5.0) + 10.0


async def start_detached(
    data_dir: Path, arguments: Sequence[str], report: Report, *, timeout_s: float
) -> LauncherRecord:
    """Start a launcher and return its record once the mesh serves and its models are loaded.

    Raises ServiceUnavailable with the launcher's last line when it ends before that.
    """
    if read_record(data_dir) is not None:
        raise already_running(data_dir)
    log_path = _log_path(data_dir)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  returns at once
            [sys.executable, "-m", "mlxmesh_launcher", "--data-dir", str(data_dir), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        return await _ready(process, data_dir, report, timeout_s)
    except BaseException:
        # Nobody would wait for it any more, Ctrl-C included.
        process.terminate()
        raise


async def _ready(
    process: subprocess.Popen[bytes], data_dir: Path, report: Report, timeout_s: float
) -> LauncherRecord:
    log = _log_path(data_dir)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        record = read_record(data_dir)
        if record is not None and record.gateway:
            return record
        if process.poll() is not None:
            raise ServiceUnavailable(f"the mesh did not start: {_last_line(log)}")
        report(_last_line(log))
        await asyncio.sleep(POLL_S)
    raise ServiceUnavailable(f"not ready within {timeout_s:.0f} s: {_last_line(log)}")


async def stop_detached(data_dir: Path) -> bool:
    """Stop the mesh of a data directory and wait until every process is gone; False when none runs.

    What is left after each service had its grace is killed.
    """
    record = read_record(data_dir)
    if record is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(record.pid)
        family = [launcher, *launcher.children(recursive=True)]
        launcher.terminate()
        for process in await asyncio.to_thread(_wait_for_end, family, STOP_TIMEOUT_S):
            process.kill()
    (data_dir / FILE_NAME).unlink(missing_ok=True)
    return True


def _wait_for_end(family: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that still run after the timeout. A process that SIGSTOP holds is continued: it could
    not hear that it should end, nor could it tell others so.
    """
    deadline = time.monotonic() + timeout_s
    alive = list(family)
    while alive and time.monotonic() < deadline:
        for process in alive:
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    process.resume()
        _, alive = psutil.wait_procs(alive, timeout=RESUME_INTERVAL_S)
    return alive


def _log_path(data_dir: Path) -> Path:
    return data_dir / "logs" / "launcher.log"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""
