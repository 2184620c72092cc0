"""Ctrl-C at any moment of a start ends it without a traceback or a warning."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STEP_S = 0.05
MAX_STEPS = 30

COMMANDS = (
    ("mlxmesh_cli", "--help"),
    ("mlxmesh_cli", "status"),
    ("mlxmesh_cli", "up", "--grpc-port", "0"),
    ("mlxmesh_gateway", "--listen", "127.0.0.1:0"),
    ("mlxmesh_generation",),
    ("mlxmesh_model",),
    ("mlxmesh_runtime",),
    ("mlxmesh_launcher", "--grpc-port", "0"),
)
# What Python does before it comes to a file of the mesh is its own, and so is that traceback.
# So is one in the few milliseconds until the mesh's first line has taken the signal over.
TAKES_OVER = "from mlxmesh_shared.process.interrupt import"
BAD = re.compile(r'File "[^"]*/mlxmesh_\w+/|Warning|Exception ignored|never awaited')


@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_it_ends_without_a_word(tmp_path: Path, command: tuple[str, ...]) -> None:
    for step in range(1, MAX_STEPS):
        data_dir = () if "--help" in command else ("--data-dir", str(tmp_path / str(step)))
        after_s = step * STEP_S
        code, text = _interrupted([*command, *data_dir], after_s)
        assert TAKES_OVER in text or not BAD.search(text), f"after {after_s} s: {text}"
        if code not in (-signal.SIGINT, 130, None):
            return  # it was done before, or serves and drains


def _interrupted(command: list[str], after_s: float) -> tuple[int | None, str]:
    """The exit code, and all that was written on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, text = process.communicate(timeout=after_s)
        return process.returncode, text
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode, text
