"""Runs a program as a child that does not outlive the launcher: python -m THIS PROGRAM ARGUMENT...

A Consul agent does not watch its standard input, so this process does. Signals are passed on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

GRACE_S = 25.0
"""Until it is killed; the launcher kills this process a little later."""


def main(command: list[str], grace_s: float = GRACE_S) -> int:
    """Runs the command; returns its exit code, or 128 and its signal, as a shell does."""
    leaving = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, _: leaving.set())
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGHUP, lambda number, _: process.send_signal(number))
    threading.Thread(target=_leave_with_parent, args=(leaving,), daemon=True).start()
    threading.Thread(target=_end, args=(process, leaving, grace_s), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _leave_with_parent(leaving: threading.Event) -> None:
    """The launcher has the other end of standard input, which closes however it ends."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    leaving.set()


def _end(process: subprocess.Popen[bytes], leaving: threading.Event, grace_s: float) -> None:
    leaving.wait()
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
