"""`mlxmesh install` and `uninstall` with a service manager that really runs the unit's command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from mlxmesh_launcher.record import read_record
from tests.e2e.running_mesh import mlxmesh, processes_of

SYSTEMCTL = Path(__file__).parents[1] / "fakes" / "systemctl.py"


@pytest.mark.skipif(sys.platform == "darwin", reason="systemd is Linux's")
def test_a_mesh_is_installed_once_and_removed_with_its_data(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    systemctl = programs / "systemctl"
    systemctl.write_text(f'#!/bin/sh\nexec {sys.executable} {SYSTEMCTL} "$@"\n')
    systemctl.chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    env = {"PATH": path, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    data_dir = tmp_path / "data"
    options = ("--data-dir", str(data_dir), "--yes", "--json")
    ports = ("--grpc-port", "0", "--http-port", "0")

    def run(*arguments: str) -> dict[str, object]:
        done = mlxmesh(*arguments, *options, env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first = run("install", *ports)
    record = read_record(data_dir)
    assert record is not None
    assert first["changed"]
    assert (first["address"], first["http"]) == (record.gateway, record.http)
    unit = Path(str(first["path"]))
    assert "KillMode=mixed" in unit.read_text()

    second = run("install", *ports)
    assert not second["changed"]
    again = read_record(data_dir)
    assert again is not None
    assert again.pid == record.pid, "it was not restarted"

    removed = run("uninstall", "--purge-data")
    assert removed == {"removed": str(unit), "deleted": str(data_dir)}
    assert not unit.exists()
    assert not data_dir.exists()
    assert processes_of(data_dir) == []
