"""systemd units: their text, their places and the commands of systemctl.

Source: systemd.service(5), systemd.exec(5), systemd.syntax(7).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mlxmesh_cli.installation.service import Command, Scope, Service
from mlxmesh_cli.installation.templates import template

# The first version with pauses that grow.
_GROWING_PAUSES = 254
_GPU = """DevicePolicy=closed
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-frontend rw
DeviceAllow=char-nvidia-uvm rw
DeviceAllow=char-nvidia-caps rw
DeviceAllow=char-drm rw"""
STATE_DIR = Path("/var/lib/mlxmesh")


class Systemd:
    """HostServices of Linux."""

    manager = "systemd"

    def __init__(self, scope: Scope, config_home: Path, root: Path = Path("/")) -> None:
        """`config_home` is $XDG_CONFIG_HOME; `root` is where the host's files are."""
        self._scope = scope
        places = {
            Scope.USER: config_home / "systemd" / "user",
            Scope.SYSTEM: root / "etc" / "systemd" / "system",
        }
        self._directory = places[scope]

    def path(self, name: str) -> Path:
        """As of HostServices."""
        return self._directory / f"{name}.service"

    def render(self, service: Service) -> bytes:
        """As of HostServices."""
        values = {
            "description": _literal(service.description),
            "command": " ".join(map(quoted, service.command)),
            "environment": _environment(service),
            "stop_timeout_s": f"{service.stop_timeout_s:.0f}",
            "backoff": _backoff(service.systemd_version),
            # CUDA compiles kernels when it runs.
            "deny_write_execute": "no" if service.has_gpu else "yes",
        }
        if service.scope == Scope.USER:
            sandbox = template("systemd/user.sandbox.conf") if service.can_sandbox else ""
            text = _filled(template("systemd/user.service"), values | {"sandbox": sandbox.strip()})
        else:
            text = _filled(template("systemd/system.service"), values | _system_values(service))
        return text.encode()

    def start(self, name: str) -> Sequence[Command]:
        """As of HostServices."""
        return (
            self._systemctl("daemon-reload"),
            self._systemctl("enable", "--now", f"{name}.service"),
        )

    def stop(self, name: str) -> Sequence[Command]:
        """As of HostServices."""
        return (self._systemctl("disable", "--now", f"{name}.service"),)

    def forget(self, name: str) -> Sequence[Command]:
        """As of HostServices."""
        return (self._systemctl("daemon-reload"),)

    def is_running(self, name: str) -> Command:
        """As of HostServices."""
        return self._systemctl("is-active", "--quiet", f"{name}.service")

    def logs(self, name: str) -> str:
        """As of HostServices."""
        user = "--user " if self._scope == Scope.USER else ""
        return f"journalctl {user}--unit {name}.service"

    def _systemctl(self, *words: str) -> Command:
        scope = ("--user",) if self._scope == Scope.USER else ()
        return ("systemctl", *scope, *words)


def quoted(word: str) -> str:
    """A word of a command line; nothing in it is expanded."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{_literal(escaped)}"' if re.search(r"[^\w@%+=:,./-]", word) else _literal(escaped)


def _literal(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError("a unit cannot contain a line break")
    return text.replace("%", "%%")


def _environment(service: Service) -> str:
    """One assignment a line; the values are literal."""
    lines: list[str] = []
    for name, value in service.environment.items():
        escaped = f"{name}={value}".replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'Environment="{_literal(escaped)}"')
    return "\n".join(lines)


def _backoff(version: int) -> str:
    return "RestartSteps=6\nRestartMaxDelaySec=60" if version >= _GROWING_PAUSES else ""


def _system_values(service: Service) -> dict[str, str]:
    data_dir, in_state = service.data_dir, service.data_dir == STATE_DIR
    account = f"User={_literal(service.account)}" if service.account else "DynamicUser=yes"
    writable = f"StateDirectory={STATE_DIR.name}\nStateDirectoryMode=0700"
    if not in_state:
        writable = f"ReadWritePaths={quoted(str(data_dir))}"
    needed = (data_dir, service.python, *service.reads)
    return {
        "account": f"{account}\n{writable}",
        "data_dir": _literal(str(data_dir)),
        "protect_home": "read-only" if any(map(is_private_place, needed)) else "yes",
        "devices": _GPU if service.has_gpu else "PrivateDevices=yes",
    }


def is_private_place(path: Path) -> bool:
    """Whether ProtectHome=yes would hide it."""
    return any(path.is_relative_to(place) for place in ("/home", "/root", "/run/user"))


def _filled(text: str, values: dict[str, str]) -> str:
    """The template with its placeholders filled; those that are empty leave no line."""
    lines: list[str] = []
    for line in text.splitlines():
        placeholders = re.findall(r"\{(\w+)\}", line)
        for name in placeholders:
            line = line.replace(f"{{{name}}}", values[name])
        if line or not placeholders:
            lines.append(line)
    return "\n".join(lines) + "\n"
