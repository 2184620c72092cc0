"""Standby processes, which start before their command line is known and read it from stdin."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from setproctitle import setproctitle

STDOUT, STDERR = 1, 2


def encode_command(command: Sequence[str], log: Path) -> bytes:
    """The line for the stdin of a standby process that makes it run as `command`.

    command: an interpreter, `-m`, the module of the standby process, and its arguments.
    """
    return f"{json.dumps([str(log), *command])}\n".encode()


def receive_command(*to_log: int) -> bool:
    """Waits for a command line and a log file, and adopts them; False if stdin ended instead.

    to_log: the descriptors to redirect to the log file. Stdin stays open, because its end means
    that the parent has died.
    """
    with open(0, closefd=False) as stdin:
        line = stdin.readline()
    if not line:
        return False
    log, *command = json.loads(line)
    with Path(log).open("ab") as file:
        for descriptor in to_log:
            os.dup2(file.fileno(), descriptor)
    setproctitle(" ".join(command))
    sys.argv = command[2:]
    return True
