"""`make demo`: an answer, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.running_mesh import processes_of


def test_demo_streams_an_answer_and_leaves_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mlxmesh_launcher.demo"],
        capture_output=True,
        text=True,
        timeout=110,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "pocket:" in result.stdout
    assert "tokens/s" in result.stdout
    # mlx keeps compiled kernels in a folder of its own; ours must be gone.
    assert [path.name for path in tmp_path.iterdir() if path.name != "mlx"] == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("size", ["0", "17", "many"])
def test_a_group_of_an_illegal_size_is_refused(size: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mlxmesh_launcher.demo", "--group", size],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "--group: invalid" in result.stderr
