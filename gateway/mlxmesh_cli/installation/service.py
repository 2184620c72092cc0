"""What the host should run, in terms that systemd and launchd share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

Command = tuple[str, ...]
WHOLE_MESH = "all"


class Scope(StrEnum):
    """Whose service it is."""

    USER = "user"
    SYSTEM = "system"


@dataclass(frozen=True)
class Service:
    """A whole mesh, or one of its services, and how it runs."""

    what: str
    """`all`, or the name of one service."""
    scope: Scope
    python: Path
    """The interpreter of the environment that mlxmesh is installed in."""
    data_dir: Path
    arguments: tuple[str, ...] = ()
    """Further words of the command line."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    stop_timeout_s: float = 150.0
    """How long a drain may take."""
    account: str = ""
    """The account of a system service; empty for one that systemd makes for it."""
    reads: tuple[Path, ...] = ()
    """Files that it needs beside its data directory: of the interpreter and the packages."""
    has_gpu: bool = False
    can_sandbox: bool = True
    """Whether services of a user may have user namespaces here."""
    systemd_version: int = 0

    @property
    def name(self) -> str:
        """`mlxmesh`, or `mlxmesh-gateway` for one service."""
        return service_name(self.what)

    @property
    def command(self) -> Command:
        """The command line that stays in the foreground."""
        module = "mlxmesh_launcher" if self.what == WHOLE_MESH else f"mlxmesh_{self.what}"
        data_dir = ("--data-dir", str(self.data_dir))
        return (str(self.python), "-m", module, *data_dir, *self.arguments)

    @property
    def description(self) -> str:
        """One line for lists of services."""
        if self.what == WHOLE_MESH:
            return "mlxmesh, a mesh that serves language models"
        return f"mlxmesh {self.what} service"


def service_name(what: str) -> str:
    """The name that the host knows the service by."""
    return "mlxmesh" if what == WHOLE_MESH else f"mlxmesh-{what}"


class HostServices(Protocol):
    """What a host's service manager needs: a file, and commands to run. It runs nothing itself."""

    manager: str
    """Its name, for messages."""

    def path(self, name: str) -> Path:
        """Where the file of the service belongs."""
        ...

    def render(self, service: Service) -> bytes:
        """The content of the file."""
        ...

    def start(self, name: str) -> Sequence[Command]:
        """Start it now and at every boot or login; its file has been written."""
        ...

    def stop(self, name: str) -> Sequence[Command]:
        """Stop it, and start it no more; its file is still there."""
        ...

    def forget(self, name: str) -> Sequence[Command]:
        """After its file was removed."""
        ...

    def is_running(self, name: str) -> Command:
        """A command that succeeds while it runs, or would be started again."""
        ...

    def logs(self, name: str) -> str:
        """The command that shows its logs, for people."""
        ...
