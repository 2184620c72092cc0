"""Processes that are forks of this one, and so do not repeat its imports.

docs/decisions/0012.
"""

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from setproctitle import setproctitle

from mlxmesh_shared.process.startup import API_KEY, child_environment

_FIRST_INHERITED_FD = 3
_THREADS = Path("/proc/self/task")


def can_fork(platform: str = sys.platform) -> bool:
    """Whether a fork of this process is safe: on Linux, without other threads, so before gRPC.

    On macOS system libraries have threads of their own, which a fork breaks.
    """
    return platform == "linux" and len(list(_THREADS.iterdir())) == 1


class ForkedProcess:
    """A process that does not outlive this one, with the interface of asyncio's Process."""

    def __init__(self, pid: int, stdin: int, stdout: int | None) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = os.fdopen(stdin, "wb", buffering=0)
        self.stdout = None if stdout is None else os.fdopen(stdout, "rb", buffering=0)
        self._reaping: asyncio.Task[int] | None = None

    @classmethod
    def fork(cls, main: Callable[[], int], title: str, *, pipe_stdout: bool) -> "ForkedProcess":
        """Starts a process that exits with what `main` returns; requires can_fork()."""
        child_stdin, stdin = os.pipe()
        stdout, child_stdout = os.pipe() if pipe_stdout else (None, sys.stdout.fileno())
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _become(main, title, child_stdin, child_stdout)
        os.close(child_stdin)
        if pipe_stdout:
            os.close(child_stdout)
        return cls(pid, stdin, stdout)

    async def wait(self) -> int:
        """Waits for its end, and returns the exit code, negative for a signal."""
        if self._reaping is None:
            self._reaping = asyncio.create_task(self._reap(), name=f"reap-{self.pid}")
        return await asyncio.shield(self._reaping)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        # Until it is reaped, no other process can have its pid.
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
        self.stdin.close()
        self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _become(main: Callable[[], int], title: str, stdin: int, stdout: int) -> NoReturn:
    """Runs in the fork; no code of the parent may continue in it."""
    code = 1
    try:
        # Before the environment changes: setproctitle finds the title by it.
        setproctitle(title)
        os.setsid()  # Ctrl-C in the terminal must reach only the parent
        # The event loop of the parent must not be woken by signals to this process.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        # This includes the pipes of other forks, which must close when the parent ends.
        os.closerange(_FIRST_INHERITED_FD, os.sysconf("SC_OPEN_MAX"))
        os.environ.update(child_environment())
        os.environ.pop(API_KEY, None)
        code = main()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
