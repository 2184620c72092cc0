"""Services as forks of a launcher that has imported what all of them need.

Interpreters that import gRPC, protobuf and pydantic one after another are most of what a mesh needs
to start; forks share one import. docs/decisions/0012.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil
from setproctitle import setproctitle

from mlxmesh_shared.process import child_environment, run_service
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.standby import STDERR, STDOUT, order_line, take_order

# The one with the most of its own to import begins first.
_SERVICES = ("mlxmesh_model", "mlxmesh_runtime", "mlxmesh_generation", "mlxmesh_gateway")
_NEEDED_BY_ALL = ("mlxmesh_launcher.mesh", "mlxmesh_shared.server", "mlxmesh_shared.telemetry")
_FIRST_FD_OF_OUR_OWN = 3


def fork_services() -> dict[str, ForkedService]:
    """A fork for each service, by its module; none where forking is not safe.

    To be called before anything uses gRPC or starts a thread: a fork gets neither whole.
    """
    for name in _NEEDED_BY_ALL:
        importlib.import_module(name)
    MeshSettings()  # the first validator that pydantic builds takes most of the time of all
    gc.freeze()  # a fork that collects garbage would copy every page that it looks at
    return {module: ForkedService.fork(module) for module in _SERVICES} if can_fork() else {}


def can_fork(platform: str = sys.platform) -> bool:
    """Whether a fork of this process is whole: Linux, and no other thread.

    On macOS system libraries have threads of their own that a fork breaks.
    """
    return platform == "linux" and psutil.Process().num_threads() == 1


class ForkedService:
    """A process that imports a service, and runs it once it is told with which arguments.

    Awaited and ended like a process of asyncio's. It ends when this process does.
    """

    def __init__(self, pid: int, stdin: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._stdin = stdin
        self._reaping: asyncio.Task[int] | None = None

    @classmethod
    def fork(cls, module: str) -> ForkedService:
        """Start it."""
        stdin, order = os.pipe()
        pid = os.fork()
        if pid == 0:
            _serve(module, stdin)
        os.close(stdin)
        return cls(pid, order)

    def run(self, command: Sequence[str], log: Path) -> None:
        """Let it be what `command` would start, writing to the log."""
        with suppress(BrokenPipeError):  # it has ended; wait() tells how
            os.write(self._stdin, order_line(command, log))

    async def wait(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        if self._reaping is None:
            self._reaping = asyncio.create_task(self._reap(), name=f"reap-{self.pid}")
        return await asyncio.shield(self._reaping)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        # Until it is reaped, its pid is nobody else's.
        if self.returncode is None:
            os.kill(self.pid, number)

    async def _reap(self) -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        pidfd = os.pidfd_open(self.pid)
        loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)  # noqa: ASYNC222  it has ended
        os.close(self._stdin)
        self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _serve(module: str, stdin: int) -> NoReturn:
    """What a fork does; nothing of the launcher's own may run on in here."""
    code = 1
    try:
        # Before the environment changes, which hides where the title is kept.
        setproctitle(f"{module} (not started)")
        os.setsid()  # Ctrl-C in the terminal is for the launcher
        os.dup2(stdin, 0)
        # Among them the other forks' pipes, which would outlive the launcher in here.
        os.closerange(_FIRST_FD_OF_OUR_OWN, os.sysconf("SC_OPEN_MAX"))
        os.environ.update(child_environment())
        service = importlib.import_module(f"{module}.__main__")
        if take_order(STDOUT, STDERR):
            code = run_service(service.main)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
