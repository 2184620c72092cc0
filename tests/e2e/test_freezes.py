"""Processes that SIGSTOP holds: commands answer, say who does not, and end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxmesh_launcher.record import read_record
from tests.e2e.running_mesh import RunningMesh, mlxmesh, processes_of, start_mesh

SIMULATED = {"MLXMESH_ENGINE_BACKEND": "simulated"}
MAX_DOWN_S = 100.0
"""Far less than what `mlxmesh down` gives a launcher that it cannot wake."""


def launcher_of(mesh: RunningMesh) -> int:
    record = read_record(mesh.data_dir)
    assert record is not None
    return record.pid


def engine_of(mesh: RunningMesh) -> int:
    return mesh.pid("engine")


def generation_of(mesh: RunningMesh) -> int:
    return mesh.pid("generation")


@pytest.mark.parametrize("victim", [launcher_of, generation_of, engine_of])
def test_down_ends_whoever_is_frozen(tmp_path: Path, victim: Callable[[RunningMesh], int]) -> None:
    mesh = start_mesh(tmp_path, "--http-port", "0", env=SIMULATED)
    pid = victim(mesh)
    os.kill(pid, signal.SIGSTOP)
    try:
        result = mlxmesh("down", "--data-dir", str(tmp_path), timeout_s=MAX_DOWN_S)
        assert result.returncode == 0, result.stderr
        assert processes_of(tmp_path) == []
    finally:
        for left in processes_of(tmp_path):
            left.kill()


def not_serving(status: dict[str, Any]) -> dict[str, str]:
    """The states of the other services."""
    rows = status["instances"]
    return {row["service"]: row["state"] for row in rows if row["state"] != "serving"}


def test_status_names_who_does_not_answer(tmp_path: Path) -> None:
    mesh = start_mesh(tmp_path, "--http-port", "0", env=SIMULATED)
    model = psutil.Process(mesh.pid("model"))
    mesh.until(lambda status: status["problems"] == [])
    model.suspend()
    try:
        frozen = mesh.until(lambda status: not_serving(status) == {"model": "unreachable"})
        shown = mesh.command("status").stdout
    finally:
        model.resume()
        assert mesh.command("down").returncode == 0
    [problem] = frozen["problems"]
    assert problem.startswith("the model service did not respond"), json.dumps(frozen)
    assert "the model service did not respond" in shown
