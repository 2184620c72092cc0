"""A mesh that serves SmolLM2, 4-bit and as bfloat16, from the file to the streamed answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlxmesh_launcher.smollm2 import GGUF, NAME, smollm2
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

QUESTION = "What is the capital of France? Answer in one sentence."
ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    running = start_mesh(tmp_path_factory.mktemp("mesh"))
    yield running
    stop_mesh(running)


def answer(mesh: RunningMesh, model: str) -> str:
    result = mesh.command("generate", QUESTION, "--model", model, "--temperature", "0")
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("options", [(), ("--dtype", "bfloat16")], ids=["4-bit", "bfloat16"])
def test_registered_and_loaded_it_answers(mesh, gguf_file, options):
    name = "".join(options).strip("-") or "packed"
    registered = mesh.command("register", str(gguf_file), "--name", name, "--json", *options)
    assert registered.returncode == 0, registered.stderr
    assert json.loads(registered.stdout) == {"name": name, "version": 1}
    loaded = mesh.command("load", name)
    assert loaded.returncode == 0, loaded.stderr
    assert answer(mesh, name) == ANSWER
    assert mesh.command("unload", name).returncode == 0


def test_the_demo_answers_with_it_in_two_ranks(gguf_file):
    result = subprocess.run(
        [sys.executable, "-m", "mlxmesh_launcher.demo", NAME, "--group", "2"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "an engine of 2 ranks" in result.stdout
    assert f"smollm2: {ANSWER}" in result.stdout


def test_what_is_in_the_cache_is_not_fetched_again(gguf_file, tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / GGUF).write_bytes(b"")
    assert smollm2(tmp_path) == tmp_path / NAME / GGUF


def test_a_fetch_that_fails_leaves_nothing(tmp_path):
    """An index that is not there, as pip's own variables name it."""
    program = "import sys; from pathlib import Path; from mlxmesh_launcher.smollm2 import smollm2\n"
    program += "smollm2(Path(sys.argv[1]))"
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "1", "PIP_RETRIES": "0",
               "PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": str(tmp_path)}  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | nowhere,
    )
    assert "could not be fetched" in result.stderr
    assert [path.name for path in Path(tmp_path / "cache").rglob("*")] == [NAME]
