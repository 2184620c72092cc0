"""The `mlxmesh` command against a mesh: text for people, JSON for scripts, clear errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.running_mesh import MLXMESH, RunningMesh
from tests.e2e.running_mesh import mlxmesh_spawned as mlxmesh

POCKET_MINI = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket-mini"


@pytest.fixture(scope="module")
def mesh(mesh: RunningMesh) -> RunningMesh:
    """Its commands run as users have them."""
    return replace(mesh, spawns=True)


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
    missing = mesh.command("logs", "nobody", "-n", "1")
    assert missing.returncode == 1
    assert "gateway" in missing.stderr


def test_without_a_mesh_commands_say_how_to_start_one(tmp_path: Path) -> None:
    commands = (
        "models", "status", "down", "restart", "drain x", "top", "events", "trace x", "chat",
        "generate Hi", "attach x", "tokens Hi", "load x", "unload x", "delete x", "alias x y 1",
    )  # fmt: skip
    for command in map(str.split, commands):
        result = mlxmesh(*command, "--data-dir", str(tmp_path))
        assert result.returncode == 3, command
        assert result.stdout == ""
        assert f"mlxmesh up --data-dir {tmp_path}" in result.stderr
    for command in (("status",), ("generate", "Hi"), ("drain", "x")):
        told = mlxmesh(*command, "--json", "--data-dir", str(tmp_path))
        assert (told.returncode, told.stdout) == (3, ""), command
        assert json.loads(told.stderr)["error"]["reason"] == "NO_MESH"


def test_there_are_no_logs_where_no_mesh_was(tmp_path: Path) -> None:
    result = mlxmesh("logs", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    assert "no logs in" in result.stderr


def test_a_gateway_that_is_away_is_exit_code_3_and_asked_about() -> None:
    result = mlxmesh("models", "--address", "127.0.0.1:1")
    assert result.returncode == 3
    assert "check the mesh with `mlxmesh status`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_listens_but_is_no_gateway_is_told_apart(mesh: RunningMesh) -> None:
    http = next(row["http"] for row in mesh.status()["instances"] if row["service"] == "gateway")
    result = mlxmesh("models", "--address", http)
    assert result.returncode == 3
    assert "does not respond as a gateway" in result.stderr
    assert "check the mesh with `mlxmesh status`" not in result.stderr


def test_errors_are_json_where_the_output_is(mesh: RunningMesh) -> None:
    result = mesh.command("generate", "Hi", "--top-p", "7", "--json")
    assert result.returncode == 1
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert error["field"].endswith("top_p")
    assert not error["retryable"]


def test_every_command_with_json_prints_json(mesh: RunningMesh) -> None:
    generated = mesh.command("generate", "Hi", "--request-id", "again", "--json")
    attached = mesh.command("attach", "again", "--json")
    assert json.loads(attached.stdout)["text"] == json.loads(generated.stdout)["text"]
    assert json.loads(attached.stdout)["finished"]["finish_reason"] == "stop"
    lines = mesh.command("logs", "gateway", "-n", "3", "--json").stdout.splitlines()
    assert {json.loads(line)["component"] for line in lines} == {"gateway"}


def test_output_that_nobody_reads_on_ends_quietly(mesh: RunningMesh) -> None:
    for command in (["generate", "Tell me a long story about a fox."], ["status"], ["events"]):
        arguments = [*MLXMESH, *command, "--data-dir", str(mesh.data_dir)]
        with subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == ""
            # A command whose output came at once was done before anybody left.
            assert process.wait(30) in (0, 141)


def test_the_shell_completes_names_of_models(mesh: RunningMesh) -> None:
    def completed(line: str, address: str) -> list[str]:
        """What Tab offers at the end of the line."""
        env = {
            "_MLXMESH_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
            "MLXMESH_ADDRESS": address,
        }
        command = Path(sys.executable).parent / "mlxmesh"
        result = subprocess.run(
            [command], env=os.environ | env, capture_output=True, text=True, check=False
        )
        assert result.stderr == ""
        return result.stdout.split()

    assert completed("mlxmesh load pocket-", mesh.address) == ["pocket-mini", "pocket-mini@1"]
    assert "pocket@1" in completed("mlxmesh generate --model ", mesh.address)
    assert completed("mlxmesh load ", "127.0.0.1:1") == []


def test_the_version_is_told() -> None:
    result = mlxmesh("--version")
    assert result.stdout.split()[0] == "mlxmesh"
    assert result.returncode == 0


def test_a_prompt_that_is_no_text_is_one_line() -> None:
    result = subprocess.run([*MLXMESH, "tokens"], input=b"\xff", capture_output=True, check=False)
    assert result.returncode == 1
    assert result.stderr == b"error: the prompt is not UTF-8\n"
