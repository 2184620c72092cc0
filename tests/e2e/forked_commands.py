"""Runs `mlxmesh` commands as forks of one process that has made their imports, which are most of
what a command computes. docs/decisions/0012 says when such forks are safe.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mlxmesh_shared.process.forked import can_fork

ROOT = Path(__file__).parents[2]
_IMPORTS = (
    "mlxmesh_cli.commands.overview",
    "mlxmesh_cli.commands.session",
    "mlxmesh_client",
    "mlxmesh_launcher.detach",
    "rich.console",
    "rich.table",
    "typer",
)
_STARTING = threading.Lock()


def run_forked(
    arguments: Sequence[str], *, stdin: str, env: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run of `python -m mlxmesh_cli`, with captured text."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        code = _code(arguments, env, [file.fileno() for file in files], timeout_s)
        for file in files:
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, files[1].read(), files[2].read())


def _code(
    arguments: Sequence[str], env: Mapping[str, str], streams: list[int], timeout_s: float
) -> int:
    asked = {"arguments": list(arguments), "env": dict(env), "cwd": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX) as connection:
        with _STARTING:
            parent = _parent()
        connection.connect(parent.address)
        socket.send_fds(connection, [b"\n"], streams)
        connection.sendall(json.dumps(asked).encode())
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(timeout_s)
        with connection.makefile() as answers:
            pid = int(answers.readline())
            try:
                return int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None


class _Parent(NamedTuple):
    process: subprocess.Popen[bytes]
    address: str


@cache
def _parent() -> _Parent:
    """The process that forks: it is started here, and ends with this one."""
    folder = tempfile.mkdtemp(prefix="mlxmesh-commands-")
    address = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), folder],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
    return _Parent(process, address)


def _main(listener_fd: int, folder: str) -> None:
    """Forks a process for each command that is asked for, until stdin closes."""
    for name in _IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    assert can_fork()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks below
    listener = socket.socket(fileno=listener_fd)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            shutil.rmtree(folder)
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.detach()
            _supervise(connection.detach())
            return
        connection.close()


def _supervise(connection_fd: int) -> None:
    """Returns in the process of the command; the other one tells how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection = socket.socket(fileno=connection_fd)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(connection.makefile().read())
    if (pid := os.fork()) == 0:
        connection.detach()
        _become(asked, streams)
        return
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(asked: Mapping[str, Any], streams: Sequence[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv[1:] = asked["arguments"]
    runpy.run_module("mlxmesh_cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2])
