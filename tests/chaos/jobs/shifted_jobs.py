"""A jobs service whose wall clock a file sets: `python -m tests.chaos.jobs.shifted_jobs`.

The file, named by CHAOS_CLOCK, has the seconds by which the clock is ahead.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from mlxmesh_jobs.__main__ import main
from mlxmesh_jobs.clock import Clock, system_clock
from mlxmesh_shared.process.startup import run_service

VARIABLE = "CHAOS_CLOCK"


def shifted_clock(file: Path) -> Clock:
    """A clock that reads the file each time."""
    return lambda: system_clock() + round(1000 * float(file.read_text()))


if __name__ == "__main__":
    sys.exit(run_service(partial(main, clock=shifted_clock(Path(os.environ[VARIABLE])))))
