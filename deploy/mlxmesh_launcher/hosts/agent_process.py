"""Runs a program as a child that does not outlive the launcher: python -m THIS PROGRAM ARGUMENT...

A Consul agent does not watch its standard input, so this process does. Signals are passed on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


def main(command: list[str]) -> int:
    """Runs the command; returns its exit code, or 128 and its signal, as a shell does."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _end_with_parent(process: subprocess.Popen[bytes]) -> None:
    """The launcher has the other end of standard input, which closes however it ends."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    process.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
