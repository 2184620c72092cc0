"""Commands for a desktop against a real mesh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest

from mlxmesh_cli.menubar.local_mesh import LocalMesh
from mlxmesh_cli.menubar.ports import MeshState, ModelState
from mlxmesh_cli.menubar.presenter import MenuBar
from mlxmesh_shared.errors import ServiceUnavailable
from tests.e2e.running_mesh import RunningMesh, mlxmesh
from tests.fakes.menubar import FakeMenu

PASSWORD = "correct horse battery"


def connect(mesh: RunningMesh, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": "", "CODEX_HOME": ""}
    return mlxmesh("connect", *arguments, "--data-dir", str(mesh.data_dir), env=env)


def test_the_console_has_an_address(mesh: RunningMesh) -> None:
    assert mesh.command("open", "--print").stdout == f"http://{mesh.http}\n"


def test_an_agent_reaches_the_mesh_with_what_was_written(mesh: RunningMesh, tmp_path: Path) -> None:
    done = connect(mesh, tmp_path, "claude-code", "--yes")
    assert done.returncode == 0, done.stderr
    variables = json.loads((tmp_path / ".claude" / "settings.json").read_text())["env"]
    assert variables["ANTHROPIC_BASE_URL"] == f"http://{mesh.http}"
    answer = message(variables)
    assert answer.status_code == 200, answer.text
    undone = connect(mesh, tmp_path, "claude-code", "--undo", "--yes")
    assert undone.returncode == 0, undone.stderr
    assert not (tmp_path / ".claude" / "settings.json").exists()


def message(variables: Mapping[str, str]) -> httpx2.Response:
    """One message, as Claude Code sends it."""
    return httpx2.post(
        f"{variables['ANTHROPIC_BASE_URL']}/v1/messages",
        headers={
            "authorization": f"Bearer {variables['ANTHROPIC_AUTH_TOKEN']}",
            "anthropic-version": "2023-06-01",
        },
        json={
            "model": variables["ANTHROPIC_MODEL"],
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "Hi"}],
        },
        timeout=60,
    )


def test_printing_writes_nothing(mesh: RunningMesh, tmp_path: Path) -> None:
    done = connect(mesh, tmp_path, "codex", "--print", "--json")
    printed = json.loads(done.stdout)
    assert f'base_url = "http://{mesh.http}/v1"' in printed["content"]
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_it_does_not_write_unasked(mesh: RunningMesh, tmp_path: Path) -> None:
    done = connect(mesh, tmp_path, "opencode")
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert not (tmp_path / ".config").exists()
    unknown = connect(mesh, tmp_path, "opencode", "--model", "nothing", "--yes")
    assert "there are " in unknown.stderr


def state_of(mesh: LocalMesh, name: str) -> ModelState:
    """What the menu says of a model."""
    return next(model for model in mesh.state().models if model.name == name)


def test_the_menu_bar_follows_the_mesh(mesh: RunningMesh) -> None:
    local, menu = LocalMesh(mesh.data_dir), FakeMenu()
    bar = MenuBar(menu, local)
    bar.refresh()
    assert state_of(local, "pocket") == ModelState("pocket", True, "ready")
    give_up_s = time.monotonic() + 60
    while local.state().processes_down:  # or busy for a second
        assert time.monotonic() < give_up_s
    menu.choose("pocket: ready", "Unload")
    assert menu.told == ["unloading pocket: done"]
    assert not state_of(local, "pocket").is_wanted
    local.load("pocket")
    bar.refresh()
    assert "pocket: ready" in menu.texts()
    menu.choose("Open console")
    assert menu.opened == [f"http://{mesh.http}"]


def test_the_menu_bar_of_a_mesh_that_does_not_run(tmp_path: Path) -> None:
    local = LocalMesh(tmp_path)
    assert local.state() == MeshState()
    with pytest.raises(ServiceUnavailable, match="start it first"):
        local.load("pocket")


def completed(mesh: RunningMesh, line: str) -> list[str]:
    """What Tab offers at the end of the line."""
    env = {
        "_MLXMESH_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "MLXMESH_DATA_DIR": str(mesh.data_dir),
    }
    command = Path(sys.executable).parent / "mlxmesh"
    done = subprocess.run(
        [command], env=os.environ | env, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_jobs_instances_and_models(mesh: RunningMesh) -> None:
    submitted = mesh.command("jobs", "submit", "Hi", "--id", "nightly-1", "--json")
    assert submitted.returncode == 0, submitted.stderr
    assert completed(mesh, "mlxmesh jobs show night") == ["nightly-1"]
    gateway = next(row for row in mesh.status()["instances"] if row["service"] == "gateway")
    assert completed(mesh, "mlxmesh drain gateway-") == [gateway["instance_id"]]
    assert "pocket" in completed(mesh, "mlxmesh connect codex --model poc")


def test_with_users_an_agent_gets_a_key_of_its_own(mesh: RunningMesh, tmp_path: Path) -> None:
    """The last test of this mesh: users stay."""
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    created = mesh.command("users", "create", "ada", "--admin", "--password-file", str(password))
    assert created.returncode == 0, created.stderr
    refused = connect(mesh, tmp_path, "claude-code", "--yes")
    assert refused.returncode == 1
    assert "--create-key" in refused.stderr
    done = connect(mesh, tmp_path, "claude-code", "--yes", "--create-key")
    assert done.returncode == 0, done.stderr
    file = tmp_path / ".claude" / "settings.json"
    assert file.stat().st_mode & 0o777 == 0o600
    variables = json.loads(file.read_text())["env"]
    assert message(variables).status_code == 200
    assert message({**variables, "ANTHROPIC_AUTH_TOKEN": "any"}).status_code == 401
    assert message({**variables, "ANTHROPIC_MODEL": "other"}).status_code in (403, 404)
    assert "claude-code on" in mesh.command("keys", "list").stdout
