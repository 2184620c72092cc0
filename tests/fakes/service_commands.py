"""Service managers that run nothing: they answer the commands of `systemctl` and `launchctl`.

Each refuses what the real program would refuse, and keeps every command.
"""

from __future__ import annotations

import plistlib
from pathlib import Path

from mlxmesh_cli.installation.host import Finished
from mlxmesh_cli.installation.service import Command

OK = Finished(0, "")


class FakeSystemctl:
    """systemctl of one user or of the host."""

    def __init__(self, directory: Path, *, user: bool) -> None:
        self.commands: list[Command] = []
        self.enabled: set[str] = set()
        self.active: set[str] = set()
        self.fails = ""
        """The verb that fails."""
        self._directory = directory
        self._user = user
        self._known: set[str] = set()

    def run(self, command: Command) -> Finished:
        """As of Runner."""
        self.commands.append(command)
        program, *words = command
        assert program == "systemctl"
        if words == ["--version"]:
            return Finished(0, "systemd 257 (257.9-1)\n+PAM\n")
        assert ("--user" in words) is self._user, command
        verb, *units = [word for word in words if not word.startswith("--")]
        if verb == self.fails:
            return Finished(1, "Job for mlxmesh.service failed.\n")
        if verb == "daemon-reload":
            self._known = {path.name for path in self._directory.glob("*.service")}
            return OK
        (unit,) = units
        if verb == "is-active":
            return Finished(0 if unit in self.active else 3, "")
        if unit not in self._known:
            return Finished(1, f"Unit file {unit} does not exist.\n")
        assert "--now" in words
        change = {"enable": set.add, "disable": set.discard}[verb]
        change(self.enabled, unit)
        change(self.active, unit)
        return OK


class FakeLaunchctl:
    """launchctl of one domain; a service that is asked to end takes two looks until it has."""

    def __init__(self, domain: str) -> None:
        self.commands: list[Command] = []
        self.loaded: dict[str, dict[str, object]] = {}
        self._domain = domain
        self._ending: dict[str, int] = {}

    def run(self, command: Command) -> Finished:
        """As of Runner."""
        self.commands.append(command)
        program, verb, *words = command
        assert program == "launchctl"
        if verb == "bootstrap":
            return self._bootstrap(*words)
        (target,) = words
        domain, _, label = target.rpartition("/")
        assert domain == self._domain
        if verb == "enable":
            return OK
        if verb == "print":
            return self._print(label)
        assert verb == "bootout", verb
        if label not in self.loaded:
            return Finished(3, "Boot-out failed: 3: No such process\n")
        del self.loaded[label]
        self._ending[label] = 2
        return OK

    def _bootstrap(self, domain: str, path: str) -> Finished:
        assert domain == self._domain
        content = plistlib.loads(Path(path).read_bytes())
        label = content["Label"]
        if label in self.loaded or label in self._ending:
            return Finished(5, "Bootstrap failed: 5: Input/output error\n")
        self.loaded[label] = content
        return OK

    def _print(self, label: str) -> Finished:
        if label in self._ending:
            self._ending[label] -= 1
            if self._ending[label] <= 0:
                del self._ending[label]
            return OK
        return OK if label in self.loaded else Finished(113, "Could not find service\n")
