"""The `mlxmesh` command against a mesh: text for people, JSON for scripts, clear errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e.running_mesh import MLXMESH, RunningMesh, mlxmesh

POCKET_MINI = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket-mini"


def test_generate_streams_text(mesh: RunningMesh) -> None:
    result = mesh.command("generate", "Tell me a long story about a fox.", "--max-tokens", "60")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) > 10
    assert result.stderr == ""


def test_generate_json_holds_text_and_usage(mesh: RunningMesh) -> None:
    result = mesh.command("generate", "Hi", "--json", "--max-tokens", "5")
    answer = json.loads(result.stdout)
    assert answer["finished"]["usage"]["completion_tokens"] <= 5
    assert answer["started"]["model"] == "pocket"


def test_tokens_counts_and_lists(mesh: RunningMesh) -> None:
    plain = mesh.command("tokens", "one two three", "--raw")
    listed = json.loads(mesh.command("tokens", "one two three", "--raw", "--json").stdout)
    assert int(plain.stdout) == listed["tokens"] == len(listed["token_ids"])


def test_register_load_alias_unload_delete(mesh: RunningMesh) -> None:
    assert mesh.command("register", str(POCKET_MINI), "--name", "other").returncode == 0
    loaded = mesh.command("load", "other", "--json")
    assert json.loads(loaded.stdout)["version"]["ready_replicas"] == 1, loaded.stderr
    assert mesh.command("alias", "other", "stable", "1").returncode == 0
    answer = mesh.command("generate", "Hi", "--model", "other:stable", "--max-tokens", "3")
    assert answer.returncode == 0, answer.stderr
    refused = mesh.command("delete", "other")
    assert refused.returncode == 1
    assert "unload" in refused.stderr
    assert mesh.command("unload", "other").returncode == 0
    assert mesh.command("delete", "other").returncode == 0
    names = {
        model["name"] for model in json.loads(mesh.command("models", "--json").stdout)["models"]
    }
    assert "other" not in names
    assert "pocket" in names


def test_chat_remembers_the_turns(mesh: RunningMesh) -> None:
    result = subprocess.run(
        [*MLXMESH, "chat", "--data-dir", str(mesh.data_dir), "--max-tokens", "20"],
        input="Hi\nTell me a long story about a fox.\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.strip().splitlines()) >= 2


def test_an_unknown_model_is_one_line_that_says_what_to_do(mesh: RunningMesh) -> None:
    result = mesh.command("generate", "Hi", "--model", "nothing")
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert "nothing" in result.stderr


def test_logs_show_each_component(mesh: RunningMesh) -> None:
    result = mesh.command("logs", "gateway", "-n", "5")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("gateway: ")
    missing = mesh.command("logs", "nobody")
    assert missing.returncode == 1
    assert "gateway" in missing.stderr


def test_without_a_mesh_commands_say_how_to_start_one(tmp_path: Path) -> None:
    for command in (("models",), ("generate", "Hi"), ("load", "pocket")):
        result = mlxmesh(*command, "--data-dir", str(tmp_path))
        assert result.returncode == 1
        assert "mlxmesh up" in result.stderr
    assert json.loads(mlxmesh("status", "--json", "--data-dir", str(tmp_path)).stdout) == {
        "instances": [],
        "models": [],
    }
    assert "no mesh" in mlxmesh("down", "--data-dir", str(tmp_path)).stdout
