"""`launcher.json`: how the launcher of a data directory is found and reached."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil

from mlxmesh_launcher.lock import DirectoryLock
from mlxmesh_shared.errors import IllegalState


class Started(Protocol):
    """A process, as psutil shows it."""

    def create_time(self) -> float:
        """Its start, in seconds since the epoch."""
        ...


def start_of(
    process: Started,
    boot_time: Callable[[], float] = psutil.boot_time,
    *,
    linux: bool = psutil.LINUX,
) -> float:
    """Seconds since the boot (Linux) or since the epoch.

    Linux counts from the boot, and psutil adds the time of the boot, which moves when the clock is
    set. Elsewhere the kernel keeps the time of day as it was.
    """
    return process.create_time() - boot_time() if linux else process.create_time()


FILE_NAME = "launcher.json"
DEFAULT_STOP_TIMEOUT_S = 150.0
MAX_START_DIFFERENCE_S = 2.0
"""Start times of one process may differ by a second: the boot time is in whole seconds."""


@dataclass(frozen=True)
class LauncherRecord:
    """The launcher of one data directory."""

    pid: int
    create_time: float
    """As `start_of` has it: tells a reused pid from the launcher."""
    gateway: str = ""
    """host:port of the gateway; empty until it serves."""
    http: str = ""
    """host:port of its HTTP; empty where it has none."""
    control: str = ""
    """host:port of the LauncherService; likewise."""
    flags: tuple[str, ...] = ()
    """The settings' flags that every service was started with: how to find its registry."""
    tls_dir: str = ""
    """Where the mesh's certificates are; empty for a mesh without TLS."""
    stop_timeout_s: float = DEFAULT_STOP_TIMEOUT_S
    """How long it may take to stop, by its services' settings."""
    notes: tuple[str, ...] = ()
    """What its owner should know of its start: ports that were taken, and what it took instead."""

    def is_running(self) -> bool:
        """Whether this process, not one that reused its pid, still runs."""
        try:
            process = psutil.Process(self.pid)
            return (
                abs(start_of(process) - self.create_time) < MAX_START_DIFFERENCE_S
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False


def read_record(data_dir: Path) -> LauncherRecord | None:
    """The record of the running launcher, or None when none runs."""
    try:
        content = json.loads((data_dir / FILE_NAME).read_text())
        texts = {name: tuple(content.get(name, ())) for name in ("flags", "notes")}
        record = LauncherRecord(**content | texts)
    except (OSError, AttributeError, ValueError, TypeError):
        return None
    return record if record.is_running() else None


class RecordFile:
    """This process's claim on a data directory; one mesh runs in each."""

    def __init__(
        self,
        data_dir: Path,
        flags: Sequence[str] = (),
        *,
        stop_timeout_s: float = DEFAULT_STOP_TIMEOUT_S,
        lock: DirectoryLock | None = None,
    ) -> None:
        """`lock` is the directory's lock, if this process inherited it."""
        self._data_dir = data_dir
        self._path = data_dir / FILE_NAME
        self._lock = lock
        pid = os.getpid()
        create_time = start_of(psutil.Process(pid))
        self._record = LauncherRecord(
            pid=pid, create_time=create_time, flags=tuple(flags), stop_timeout_s=stop_timeout_s
        )

    def claim(self) -> None:
        """Claims the data directory. Raises: IllegalState when another launcher holds it, or it
        cannot be used.
        """
        if self._lock is None:
            self._lock = DirectoryLock.acquire(self._data_dir)
        self._lock.write_holder(os.getpid())
        self._write()

    def publish(
        self,
        gateway: str,
        *,
        control: str,
        http: str = "",
        tls_dir: Path | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Write how the gateway and this launcher are reached, for clients on this host."""
        reached = {"gateway": gateway, "http": http, "control": control}
        tls = str(tls_dir or "")
        self._record = replace(self._record, **reached, tls_dir=tls, notes=tuple(notes))
        self._write()
        if self._lock is not None:
            self._lock.write_holder(os.getpid(), gateway)

    def reclaim(self) -> bool:
        """Claims the directory again if it was removed; returns whether it was.

        Raises: IllegalState when another launcher has claimed it, or it cannot be used.
        """
        if self._lock is not None and self._lock.is_in_place() and self._path.exists():
            return False
        if self._lock is not None and not self._lock.is_in_place():
            new = DirectoryLock.acquire(self._data_dir)
            self._lock.release()
            self._lock = new
            new.write_holder(os.getpid(), self._record.gateway)
        self._write()
        return True

    def release(self) -> None:
        """Releases the data directory, if this process has claimed it."""
        if self._lock is None:
            return
        if self._lock.is_in_place():
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._lock.release()
        self._lock = None

    def _write(self) -> None:
        partial = self._path.with_suffix(".part")
        try:
            partial.write_text(json.dumps(asdict(self._record)))
            partial.replace(self._path)
        except OSError as error:
            raise IllegalState(f"cannot write {self._path}: {error.strerror}") from None
