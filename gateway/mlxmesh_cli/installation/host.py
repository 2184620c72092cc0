"""Runs the service manager's commands, and asks this host what it can do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlxmesh_cli.installation.launchd import Launchd
from mlxmesh_cli.installation.service import Command, HostServices, Scope
from mlxmesh_cli.installation.systemd import Systemd
from mlxmesh_shared.errors import IllegalState

TIMEOUT_S = 900.0
"""A stop drains first."""


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    output: str


class Runner(Protocol):
    """Runs commands."""

    def run(self, command: Command) -> Finished:
        """Runs it to its end."""
        ...


class SubprocessRunner:
    """The Runner of a real host."""

    def run(self, command: Command) -> Finished:
        """As of Runner. Raises: IllegalState where the program is missing or does not end."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
        except FileNotFoundError:
            raise IllegalState(
                f"{command[0]} is not on this host; start the mesh with `mlxmesh up --detach`"
                " from what starts your programs instead"
            ) from None
        except subprocess.TimeoutExpired:
            raise IllegalState(
                f"`{' '.join(command)}` did not end within {TIMEOUT_S:.0f} s"
            ) from None
        return Finished(done.returncode, done.stdout + done.stderr)


def run_all(runner: Runner, commands: Sequence[Command]) -> None:
    """Runs commands in order. Raises: IllegalState with what the first failing one says."""
    for command in commands:
        done = runner.run(command)
        if done.code != 0:
            words = " ".join(done.output.split()) or f"exit code {done.code}"
            raise IllegalState(f"`{' '.join(command)}` failed: {words}")


def host_services(scope: Scope) -> HostServices:
    """The service manager of this host."""
    if sys.platform == "darwin":
        return Launchd(scope, Path.home(), os.getuid())
    config_home = os.environ.get("XDG_CONFIG_HOME")
    return Systemd(scope, Path(config_home) if config_home else Path.home() / ".config")


def systemd_version(runner: Runner) -> int:
    """Systemd's version; 0 where it is unknown."""
    if shutil.which("systemctl") is None:
        return 0
    found = re.match(r"systemd (\d+)", runner.run(("systemctl", "--version")).output)
    return int(found[1]) if found else 0


def can_sandbox_users(root: Path = Path("/")) -> bool:
    """Whether a service without privileges may create user namespaces."""
    sysctl = root / "proc" / "sys"

    def value(name: str) -> str:
        try:
            return (sysctl / name).read_text().strip()
        except OSError:
            return ""

    return (
        value("user/max_user_namespaces") not in ("", "0")
        and value("kernel/unprivileged_userns_clone") != "0"
        and value("kernel/apparmor_restrict_unprivileged_userns") != "1"
    )


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """Whether CUDA's devices are here."""
    return (root / "dev" / "nvidiactl").exists()
