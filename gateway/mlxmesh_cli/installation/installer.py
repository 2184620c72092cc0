"""Writes the file of a service, starts it, and removes both again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from mlxmesh_cli.installation.host import Runner, run_all
from mlxmesh_cli.installation.service import HostServices, Service
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.atomic_file import write_atomically

POLL_S = 0.2
STOP_TIMEOUT_S = 900.0
FILE_MODE = 0o644


@dataclass(frozen=True)
class Plan:
    """The file that an installation writes."""

    path: Path
    content: bytes
    before: bytes | None
    """What is there now; None for nothing."""

    @property
    def is_new(self) -> bool:
        """Whether there is no such file yet."""
        return self.before is None

    @property
    def changes(self) -> bool:
        """Whether the file is to be written."""
        return self.content != self.before

    def diff(self) -> str:
        """What would change, as a unified diff."""
        old, new = (
            (text or b"").decode(errors="replace").splitlines()
            for text in (self.before, self.content)
        )
        return "\n".join(unified_diff(old, new, str(self.path), str(self.path), lineterm=""))


class Installer:
    """One service of this host."""

    def __init__(
        self,
        host: HostServices,
        runner: Runner,
        name: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`name` is as of service_name."""
        self._host = host
        self._runner = runner
        self._name = name
        self._sleep = sleep

    @property
    def path(self) -> Path:
        """Where the service's file is, or would be."""
        return self._host.path(self._name)

    def plan(self, service: Service) -> Plan:
        """What an installation would write."""
        before = self.path.read_bytes() if self.path.exists() else None
        return Plan(self.path, self._host.render(service), before)

    def is_running(self) -> bool:
        """Whether the service manager runs it."""
        return self._runner.run(self._host.is_running(self._name)).code == 0

    def install(self, plan: Plan, data_dir: Path | None = None) -> bool:
        """Writes the file and starts the service; returns whether anything was to be done.

        `data_dir` is made if given. A running service whose file changes is drained first.
        Raises: IllegalState, OSError.
        """
        was_running = self.is_running()
        if not plan.changes and was_running:
            return False
        if plan.changes and was_running:
            self._stop()
        if plan.changes:
            plan.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(plan.path, plan.content, mode=FILE_MODE)
        if data_dir is not None:
            _make_data_dir(data_dir)
        run_all(self._runner, self._host.start(self._name))
        return True

    def uninstall(self) -> bool:
        """Drains and stops the service and removes its file; returns whether there was one."""
        if not self.path.exists():
            return False
        self._stop()
        self.path.unlink()
        run_all(self._runner, self._host.forget(self._name))
        return True

    def _stop(self) -> None:
        if not self.is_running() and self._host.manager == "launchd":
            return  # it fails for what is not loaded
        run_all(self._runner, self._host.stop(self._name))
        # launchd returns before the service has ended, and refuses to start it until then.
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while self.is_running():
            if time.monotonic() > deadline_s:
                raise IllegalState(
                    f"{self._name} still runs after {STOP_TIMEOUT_S:.0f} s; see"
                    f" `{self._host.logs(self._name)}`, then try again"
                )
            self._sleep(POLL_S)


def _make_data_dir(data_dir: Path) -> None:
    """Only its owner may enter it; launchd needs the folder of the log before it starts."""
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        data_dir.chmod(0o700)
    (data_dir / "logs").mkdir(exist_ok=True)
