"""What an engine reports to the runtime that started it, and how it ends with that runtime."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Generator

from mlxmesh_shared.errors import Internal, MeshError
from mlxmesh_shared.process.startup import (
    EXIT_WITH_PARENT,
    call_at_end_of_stdin,
    die_with_parent,
)

Announce = Callable[[dict[str, str | bool]], None]
# A reason is for people, and the runtime reads stdout by lines of limited length.
MAX_REASON_CHARACTERS = 4000


def follow_parent() -> None:
    """Exits at once when the runtime dies: no other process would stop or restart this engine."""
    if os.environ.get(EXIT_WITH_PARENT) == "1":
        die_with_parent()
        call_at_end_of_stdin(lambda: os._exit(0))


def take_stdout() -> Announce:
    """Writes JSON lines to the parent; whatever libraries print goes to the log instead."""
    to_parent, sys.stdout = sys.stdout, sys.stderr

    def announce(facts: dict[str, str | bool]) -> None:
        to_parent.write(json.dumps(facts) + "\n")
        to_parent.flush()

    return announce


@contextlib.contextmanager
def failures_announced(announce: Announce) -> Generator[None]:
    """Reports to the parent why this engine cannot serve, and whether a retry cannot help."""
    try:
        yield
    except MeshError as error:
        announce(
            {
                "phase": "failed",
                "permanent": not error.retryable and not isinstance(error, Internal),
                "message": error.message[:MAX_REASON_CHARACTERS],
            }
        )
        raise
