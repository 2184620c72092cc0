"""Every example, as its README says to run it, against a live mesh."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from .building import kept_copy

PROMPT = "Once upon a time"


def streamed(run: Any, folder: str | Path, *command: str) -> None:
    """Runs an example that streams; it must print a text and its usage."""
    result = run(folder, *command, PROMPT)

    assert result.returncode == 0, result.stderr
    text, _, usage = result.stdout.rpartition("\n[")
    assert text.strip()
    match = re.fullmatch(r"(\d+) tokens in, (\d+) out\]\n", usage)
    assert match, result.stdout
    assert int(match[1]) > 0
    assert 0 < int(match[2]) <= 60


def cancelled(run: Any, folder: Path, *command: str) -> None:
    """Runs an example that cancels after 20 characters; it must print no fewer, and no usage."""
    result = run(folder, *command, PROMPT, "20")

    assert result.returncode == 0, result.stderr
    text, _, end = result.stdout.rpartition("\n[")
    assert end == "cancelled]\n"
    assert len(text) >= 20


def refused(run: Any, folder: str | Path, *command: str) -> str:
    """Runs an example with a model that is not there; returns what it says of it."""
    result = run(folder, *command, PROMPT, model="nix")

    assert result.returncode == 1
    assert result.stdout == ""
    return result.stderr


def test_python_streams(run: Any) -> None:
    streamed(run, "python", sys.executable, "generate.py")
    assert refused(run, "python", sys.executable, "generate.py").startswith("MODEL_NOT_FOUND: ")


def test_python_holds_a_conversation(run: Any) -> None:
    result = run("python", sys.executable, "chat.py", lines="Hi\nTell me a story.\n")

    assert result.returncode == 0, result.stderr
    answers = result.stdout.splitlines()
    assert len(answers) >= 2
    assert all(answers[:2])


def test_python_calls_tools_only_of_models_that_take_them(run: Any) -> None:
    """The whole example runs against a scripted mesh, in tests/integration/cli."""
    assert refused(run, "python", sys.executable, "tools.py").startswith("MODEL_NOT_FOUND: ")


@pytest.mark.tools
@pytest.mark.timeout(600)
def test_go_streams(run: Any) -> None:
    generated = run("go", "./generate.sh")
    assert generated.returncode == 0, generated.stderr
    built = run("go", "go", "build", "-o", "gen/example", ".")
    assert built.returncode == 0, built.stderr

    streamed(run, "go", "gen/example")
    assert refused(run, "go", "gen/example").startswith("MODEL_NOT_FOUND: ")


@pytest.mark.tools
@pytest.mark.timeout(900)
def test_java_streams(run: Any) -> None:
    with kept_copy("java") as folder:
        built = run(folder, "mvn", "--quiet", "--batch-mode", "compile")
        assert built.returncode == 0, built.stdout + built.stderr
        command = ("java", "-cp", "target/classes:target/lib/*", "mlxmesh.example.Generate")

        streamed(run, folder, *command)
        cancelled(run, folder, *command)
        assert refused(run, folder, *command).startswith("MODEL_NOT_FOUND: ")


@pytest.mark.tools
@pytest.mark.timeout(900)
def test_rust_streams(run: Any) -> None:
    with kept_copy("rust") as folder:
        built = run(folder, "cargo", "build", "--quiet")
        assert built.returncode == 0, built.stderr

        streamed(run, folder, "target/debug/mlxmesh-example")
        cancelled(run, folder, "target/debug/mlxmesh-example")
        assert refused(run, folder, "target/debug/mlxmesh-example").startswith("MODEL_NOT_FOUND: ")


@pytest.mark.tools
def test_node_streams(run: Any) -> None:
    installed = run(
        "node", "npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"
    )
    assert installed.returncode == 0, installed.stderr

    streamed(run, "node", "node", "generate.mjs")
    assert refused(run, "node", "node", "generate.mjs").startswith("NOT_FOUND: ")


@pytest.mark.tools
def test_grpcurl_calls_everything(run: Any) -> None:
    result = run("grpcurl", "./calls.sh", PROMPT)

    assert result.returncode == 0, result.stderr
    contracts, models, tokens, stream, whole = re.split(r"^--- .*\n", result.stdout, flags=re.M)[1:]
    assert "mlxmesh.generation.v1.GenerationService" in contracts
    assert "// The largest number of tokens to generate." in contracts
    assert '"name": "pocket"' in models
    assert '"tokens":' in tokens
    assert stream.index('"started"') < stream.index('"delta"') < stream.index('"finished"')
    assert '"text":' in whole
