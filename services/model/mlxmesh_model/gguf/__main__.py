"""The process that converts one file: `python -m mlxmesh_model.gguf FILE DIRECTORY [DTYPE]`.

It tells how far it is by lines of JSON on stdout, and ends when its parent does.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxmesh_model.gguf.conversion import NoRoom, convert
from mlxmesh_model.gguf.problems import BadFile, NotSupported
from mlxmesh_model.gguf.weights import Dtype
from mlxmesh_shared.host.disk import DISK_FULL
from mlxmesh_shared.process.startup import call_at_end_of_stdin, die_with_parent

_PROGRESS_INTERVAL_S = 0.1
# The kinds of failure, as the parent reads them.
_FAILURES: dict[type[Exception], str] = {
    BadFile: "bad",
    NotSupported: "unsupported",
    NoRoom: "full",
    OSError: "disk",
}


def main(arguments: list[str]) -> int:
    """Exit code 0 once the directory is whole."""
    die_with_parent()
    call_at_end_of_stdin(lambda: os._exit(1))
    path, directory, *dtype = arguments
    try:
        convert(Path(path), Path(directory), Dtype(dtype[0]) if dtype else None, _progress())
    except tuple(_FAILURES) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        _tell({"failure": _kind(error), "message": text})
        return 1
    return 0


def _kind(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return "full"
    return next(name for known, name in _FAILURES.items() if isinstance(error, known))


def _progress() -> Callable[[int, int], None]:
    """Tells at most ten times a second, and at the end."""
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= _PROGRESS_INTERVAL_S:
            last = now
            _tell({"done": done, "total": total})

    return tell


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
