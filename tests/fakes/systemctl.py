"""A `systemctl --user` that runs the command of one unit for real, without its sandbox.

Run as a program: it keeps the pid of a unit's process beside the unit.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

UNITS = Path(os.environ["XDG_CONFIG_HOME"]) / "systemd" / "user"


def main(words: list[str]) -> int:
    if words == ["--version"]:
        print("systemd 257 (257.9-1)")
        return 0
    verb, *units = [word for word in words if not word.startswith("--")]
    if verb == "daemon-reload":
        return 0
    unit = UNITS / units[0]
    pid_file = unit.with_suffix(".pid")
    if verb == "is-active":
        return 0 if is_running(pid_file) else 3
    if verb == "enable":
        return start(unit, pid_file)
    assert verb == "disable", verb
    return stop(pid_file)


def start(unit: Path, pid_file: Path) -> int:
    values = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line)
    command = shlex.split(values["ExecStart"].replace("%%", "%"))
    log = unit.with_suffix(".log").open("ab")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    pid_file.write_text(str(process.pid))
    return 0


def stop(pid_file: Path) -> int:
    with suppress(ProcessLookupError):
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
    while is_running(pid_file):
        time.sleep(0.1)
    pid_file.unlink()
    return 0


def is_running(pid_file: Path) -> bool:
    with suppress(OSError, ValueError):
        state = (
            Path("/proc", pid_file.read_text(), "stat").read_text().rpartition(")")[2].split()[0]
        )
        return state != "Z"
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
