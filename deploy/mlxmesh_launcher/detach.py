"""Runs a mesh in the background: starts a launcher, finds it by its record and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from mlxmesh_launcher.initial_models import Report
from mlxmesh_launcher.lock import DirectoryLock
from mlxmesh_launcher.record import LauncherRecord, read_record
from mlxmesh_shared.errors import IllegalState, ServiceUnavailable
from mlxmesh_shared.process.startup import own_environment

POLL_S = 0.1
RESUME_INTERVAL_S = 1.0
KILL_TIMEOUT_S = 10.0
"""How long the kernel may take to end what was killed."""


async def start_detached(
    data_dir: Path, arguments: Sequence[str], report: Report, *, timeout_s: float
) -> LauncherRecord:
    """Start a launcher and return its record once the mesh serves and its models are loaded.

    Raises ServiceUnavailable with the launcher's last line when it ends before that, and
    IllegalState when another launcher has the data directory, or it cannot be used.
    """
    # Acquired here and passed on: of several concurrent starts, only one writes the log.
    lock = DirectoryLock.acquire(data_dir)
    try:
        process = _spawn(data_dir, arguments, lock)
        lock.write_holder(process.pid)
    except OSError as error:
        raise IllegalState(f"cannot start a launcher in {data_dir}: {error.strerror}") from None
    finally:
        lock.release()
    try:
        return await _ready(process, data_dir, report, timeout_s)
    except BaseException:
        # No caller waits for it any more, also after Ctrl-C.
        process.terminate()
        raise


def _spawn(
    data_dir: Path, arguments: Sequence[str], lock: DirectoryLock
) -> subprocess.Popen[bytes]:
    log_path = _log_path(data_dir)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.write_bytes(b"")
    ours = ["--data-dir", str(data_dir), "--lock-fd", str(lock.descriptor)]
    with log_path.open("ab") as log:  # the launcher rotates it, which needs O_APPEND
        return subprocess.Popen(
            [sys.executable, "-m", "mlxmesh_launcher", *ours, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=own_environment(),
            pass_fds=(lock.descriptor,),
        )


async def _ready(
    process: subprocess.Popen[bytes], data_dir: Path, report: Report, timeout_s: float
) -> LauncherRecord:
    log = _log_path(data_dir)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        record = read_record(data_dir)
        if record is not None and record.pid == process.pid and record.control:
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
        await asyncio.to_thread(_end, family, record.stop_timeout_s)
    return True


def _end(family: Sequence[psutil.Process], timeout_s: float) -> None:
    """Wait until they are gone; kill those that still run after the timeout."""
    left = _wait_for_end(family, timeout_s)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=KILL_TIMEOUT_S)


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
