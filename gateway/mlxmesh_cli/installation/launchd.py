"""launchd agents and daemons: their property lists, their places and the commands of launchctl.

Source: launchd.plist(5), launchctl(1).
"""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxmesh_cli.installation.service import Command, Scope, Service
from mlxmesh_cli.installation.templates import template

PREFIX = "org.mlxmesh"


class Launchd:
    """HostServices of macOS."""

    manager = "launchd"

    def __init__(self, scope: Scope, home: Path, uid: int, root: Path = Path("/")) -> None:
        """`home` and `uid` are the user's; `root` is where the host's files are."""
        self._domain = "system" if scope == Scope.SYSTEM else f"gui/{uid}"
        places = {
            Scope.USER: home / "Library" / "LaunchAgents",
            Scope.SYSTEM: root / "Library" / "LaunchDaemons",
        }
        self._directory = places[scope]

    def path(self, name: str) -> Path:
        """As of HostServices."""
        return self._directory / f"{label(name)}.plist"

    def render(self, service: Service) -> bytes:
        """As of HostServices."""
        log = str(log_path(service))
        fixed: dict[str, Any] = plistlib.loads(template("launchd/mlxmesh.plist").encode())
        own: dict[str, Any] = {
            "Label": label(service.name),
            "ProgramArguments": list(service.command),
            "WorkingDirectory": str(service.data_dir),
            # In whole seconds; launchd kills what has not ended by then.
            "ExitTimeOut": round(service.stop_timeout_s),
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
        if service.environment:
            own["EnvironmentVariables"] = dict(service.environment)
        if service.account:
            own["UserName"] = service.account
        return plistlib.dumps(own | fixed, sort_keys=False)

    def start(self, name: str) -> Sequence[Command]:
        """As of HostServices."""
        return (
            ("launchctl", "enable", self._target(name)),
            ("launchctl", "bootstrap", self._domain, str(self.path(name))),
        )

    def stop(self, name: str) -> Sequence[Command]:
        """As of HostServices."""
        return (("launchctl", "bootout", self._target(name)),)

    def forget(self, name: str) -> Sequence[Command]:
        """As of HostServices."""
        return ()

    def is_running(self, name: str) -> Command:
        """As of HostServices."""
        return ("launchctl", "print", self._target(name))

    def logs(self, name: str) -> str:
        """As of HostServices."""
        return "mlxmesh logs launcher" if name == "mlxmesh" else "mlxmesh logs"

    def _target(self, name: str) -> str:
        return f"{self._domain}/{label(name)}"


def label(name: str) -> str:
    """The service's label."""
    return f"{PREFIX}.{name}"


def log_path(service: Service) -> Path:
    """The log that `mlxmesh logs` shows and the launcher rotates."""
    stem = "launcher" if service.name == "mlxmesh" else service.what
    return service.data_dir / "logs" / f"{stem}.log"
