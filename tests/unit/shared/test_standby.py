"""A process that learns from stdin what it is."""

import subprocess
import sys
from pathlib import Path

from mlxmesh_shared.process.standby import order_line

WAITING = (
    "import os, sys\n"
    "from mlxmesh_shared.process.standby import STDERR, take_order\n"
    "print(take_order(STDERR), sys.argv, flush=True)\n"
    "print('to the log', file=sys.stderr, flush=True)\n"
    "print(open('/proc/self/cmdline').read() if sys.platform == 'linux' else '')\n"
)


def ordered(stdin: bytes) -> str:
    return subprocess.run(
        [sys.executable, "-c", WAITING], input=stdin, capture_output=True, timeout=60, check=True
    ).stdout.decode()


def test_it_takes_on_arguments_log_and_title(tmp_path: Path) -> None:
    log = tmp_path / "a b.log"
    command = [sys.executable, "-m", "mlxmesh_engine", "--model", "a b"]
    taken, title = ordered(order_line(command, log)).split("\n", 1)
    assert taken == "True ['mlxmesh_engine', '--model', 'a b']"
    assert log.read_text() == "to the log\n"
    assert sys.platform != "linux" or "mlxmesh_engine --model" in title


def test_without_an_order_it_is_told_so() -> None:
    assert ordered(b"").startswith("False")
