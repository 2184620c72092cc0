"""The process that converts one file: `python -m mlxmesh_model.gguf FILE DIRECTORY [DTYPE]`.

It reports its progress as lines of JSON on stdout, and exits when its parent exits.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxmesh_model.gguf.conversion import NotEnoughDisk, convert
from mlxmesh_model.gguf.metadata import BadFile, NotSupported
from mlxmesh_model.gguf.weights import Dtype
from mlxmesh_shared.host.disk import DISK_FULL
from mlxmesh_shared.process.startup import call_at_end_of_stdin, die_with_parent

_PROGRESS_INTERVAL_S = 0.1
# The names of failures in the protocol with the parent.
_FAILURES: dict[type[Exception], str] = {
    BadFile: "bad",
    NotSupported: "unsupported",
    NotEnoughDisk: "full",
    OSError: "disk",
}


def main(arguments: list[str]) -> int:
    """Converts; the exit code is 0 once the directory is complete."""
    die_with_parent()
    call_at_end_of_stdin(lambda: os._exit(1))
    path, directory, *dtype = arguments
    try:
        convert(Path(path), Path(directory), Dtype(dtype[0]) if dtype else None, _progress())
    except tuple(_FAILURES) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        _send({"failure": _kind(error), "message": text})
        return 1
    return 0


def _kind(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return "full"
    return next(name for known, name in _FAILURES.items() if isinstance(error, known))


def _progress() -> Callable[[int, int], None]:
    """A callback that sends the progress at most ten times a second, and at the end."""
    last = 0.0

    def send(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= _PROGRESS_INTERVAL_S:
            last = now
            _send({"done": done, "total": total})

    return send


def _send(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
