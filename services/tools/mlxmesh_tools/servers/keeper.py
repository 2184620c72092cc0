"""Runs the command of an MCP server, and ends it with everything that it started.

A program of its own, which needs only the standard library: `python -I -S keeper.py DIRECTORY
COMMAND...`. The tools service holds the other end of its standard input, which the command reads.
Once that is closed, because the service wants it or is gone, the command may end by itself for a
while; then it is killed. docs/decisions/0073.
"""

import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from types import FrameType

END_GRACE_S = 2.0
"""How long the command may take to end after its input was closed, and again after SIGTERM."""
NOT_STARTED = 127
_PR_SET_CHILD_SUBREAPER = 36
_RESET = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
_IS_LINUX = sys.platform == "linux"


class Keeper:
    """One command, from its start to its end."""

    def __init__(self, pid: int, woken: int) -> None:
        """woken: readable when a child has ended."""
        self._pid = pid
        self._woken = woken
        self._code: int | None = None

    def run(self) -> int:
        """Returns the exit code of the command once nothing of it runs any more."""
        if not self._wait(until_closed=True, timeout_s=None):
            self._end()
        code = 1 if self._code is None else self._code
        _kill_children()
        return code

    def _end(self) -> None:
        """The input was closed."""
        if self._wait(until_closed=False, timeout_s=END_GRACE_S):
            return
        os.killpg(0, signal.SIGTERM)  # which this process ignores
        self._wait(until_closed=False, timeout_s=END_GRACE_S)
        if not _IS_LINUX:
            os.killpg(0, signal.SIGKILL)  # this process too

    def _wait(self, *, until_closed: bool, timeout_s: float | None) -> bool:
        """Whether the command ended, before the time is over or the input was closed."""
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        if until_closed:
            poller.register(0, 0)  # the end of its other side is always reported
        ends_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._has_ended():
            left_ms = None if ends_s is None else max(0.0, (ends_s - time.monotonic()) * 1000)
            found = poller.poll(left_ms)
            if not found:
                return self._has_ended()
            if any(number == 0 for number, _ in found):
                return False
            os.read(self._woken, 4096)
        return True

    def _has_ended(self) -> bool:
        """Reaps everything that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None


def _kill_children() -> None:
    """Kills whatever is left: on Linux also what has left the process group, because this process
    is the parent of all orphans below it.
    """
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for _ in range(1000):
        try:
            pids = [int(pid) for pid in children.read_text().split()]
        except OSError:
            return
        if not pids:
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def _adopt_orphans() -> None:
    """Linux only."""
    if _IS_LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wake_on_children() -> int:
    """A descriptor that can be read when a child has ended."""
    woken, wakes = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _nothing)
    return woken


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _start(command: list[str], directory: str) -> int:
    """The command's process id; it gets nothing of this process but its standard streams."""
    os.chdir(directory)
    return os.posix_spawnp(command[0], command, os.environ, setsigdef=_RESET)


def main(directory: str, *command: str) -> int:
    """The exit code of the command."""
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.setsid()
    _adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    woken = _wake_on_children()
    try:
        pid = _start([*command], directory)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)  # noqa: T201
        return NOT_STARTED
    # Otherwise nobody would see that the command has closed its output.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return Keeper(pid, woken).run()


if __name__ == "__main__":
    ended = main(*sys.argv[1:])
    os._exit(ended if ended >= 0 else 128 - ended)
