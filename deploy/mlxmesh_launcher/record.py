"""`launcher.json`: which launcher runs the mesh of a data directory, and its gateway's address."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from mlxmesh_launcher.process_start import start_of
from mlxmesh_shared.errors import IllegalState

FILE_NAME = "launcher.json"
MAX_START_DIFFERENCE_S = 2.0
"""Two looks at one process may differ by a second: the time of the boot is in whole ones."""


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

    def is_running(self) -> bool:
        """Whether this very process still runs."""
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
        record = LauncherRecord(**content | {"flags": tuple(content.get("flags", ()))})
    except (FileNotFoundError, AttributeError, ValueError, TypeError):
        return None
    return record if record.is_running() else None


def already_running(data_dir: Path) -> IllegalState:
    """The error for a second mesh in one data directory."""
    holder = read_record(data_dir)
    where = f" (pid {holder.pid}, {holder.gateway or 'starting'})" if holder else ""
    return IllegalState(
        f"a mesh already runs in {data_dir}{where}; "
        "stop it with `mlxmesh down`, or choose another --data-dir"
    )


class RecordFile:
    """This process's claim on a data directory; one mesh runs in each."""

    def __init__(self, data_dir: Path, flags: Sequence[str] = ()) -> None:
        self._path = data_dir / FILE_NAME
        pid = os.getpid()
        create_time = start_of(psutil.Process(pid))
        self._record = LauncherRecord(pid=pid, create_time=create_time, flags=tuple(flags))

    def claim(self) -> None:
        """Take the data directory. Raises IllegalState when another launcher holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if read_record(self._path.parent) is None:
            self._path.unlink(missing_ok=True)
        try:
            with self._path.open("x") as file:
                file.write(json.dumps(asdict(self._record)))
        except FileExistsError:
            raise already_running(self._path.parent) from None

    def publish(
        self, gateway: str, *, control: str, http: str = "", tls_dir: Path | None = None
    ) -> None:
        """Write how the gateway and this launcher are reached, for clients on this host."""
        reached = {"gateway": gateway, "http": http, "control": control}
        self._record = replace(self._record, **reached, tls_dir=str(tls_dir or ""))
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps(asdict(self._record)))
        partial.replace(self._path)

    def release(self) -> None:
        """Give the data directory back."""
        self._path.unlink(missing_ok=True)
