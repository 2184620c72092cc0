"""Processes that are started before it is known what they should run: they wait for it on stdin."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from setproctitle import setproctitle

STDOUT, STDERR = 1, 2


def order_line(command: Sequence[str], log: Path) -> bytes:
    """What to write to a waiting process's stdin, so that it is what `command` would start.

    `command` is an interpreter, `-m`, the module that waits, and its arguments.
    """
    return f"{json.dumps([str(log), *command])}\n".encode()


def take_order(*to_log: int) -> bool:
    """Waits, and takes on the command line and the log; False when stdin ended instead.

    `to_log` are the descriptors that shall write to the log. Stdin stays open, as the sign that the
    parent lives.
    """
    with open(0, closefd=False) as stdin:
        order = stdin.readline()
    if not order:
        return False
    log, *command = json.loads(order)
    with Path(log).open("ab") as file:
        for descriptor in to_log:
            os.dup2(file.fileno(), descriptor)
    setproctitle(" ".join(command))
    sys.argv = command[2:]
    return True
