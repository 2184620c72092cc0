"""A standby process, which reads its command line from stdin."""

import subprocess
import sys
from pathlib import Path

from mlxmesh_shared.process.standby import encode_command

WAITING = (
    "import os, sys\n"
    "from mlxmesh_shared.process.standby import STDERR, receive_command\n"
    "print(receive_command(STDERR), sys.argv, flush=True)\n"
    "print('to the log', file=sys.stderr, flush=True)\n"
    "print(open('/proc/self/cmdline').read() if sys.platform == 'linux' else '')\n"
)


def output_of(stdin: bytes) -> str:
    return subprocess.run(
        [sys.executable, "-c", WAITING], input=stdin, capture_output=True, timeout=60, check=True
    ).stdout.decode()


def test_it_adopts_arguments_log_and_title(tmp_path: Path) -> None:
    log = tmp_path / "a b.log"
    command = [sys.executable, "-m", "mlxmesh_engine", "--model", "a b"]
    adopted, title = output_of(encode_command(command, log)).split("\n", 1)
    assert adopted == "True ['mlxmesh_engine', '--model', 'a b']"
    assert log.read_text() == "to the log\n"
    assert sys.platform != "linux" or "mlxmesh_engine --model" in title


def test_it_returns_false_when_stdin_ends() -> None:
    assert output_of(b"").startswith("False")
