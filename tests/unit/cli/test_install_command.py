"""install, uninstall, open, completion and menubar as commands: dry runs, refusals, questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mlxmesh_cli.commands.app import app
from mlxmesh_cli.installation.host import SubprocessRunner, host_services
from mlxmesh_cli.installation.installer import Installer
from mlxmesh_cli.installation.service import Scope, service_name
from mlxmesh_launcher.record import RecordFile


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=env)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the real home directory is read or written."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("MLXMESH_DATA_DIR", raising=False)
    return home


def test_a_dry_run_prints_and_writes_nothing(home: Path) -> None:
    """The real command, in a process of its own."""
    command = (sys.executable, "-m", "mlxmesh_cli", "install", "--user", "--dry-run", "--json")
    done = subprocess.run(
        [*command, "--replicas", "2", "--env", "A=b c"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(home)},
    )
    plan = json.loads(done.stdout)
    assert plan["changes"]
    assert "mlxmesh_launcher" in plan["content"]
    assert "b c" in plan["content"]
    assert plan["commands"]
    assert str(home) in plan["path"]
    assert list(home.rglob("*")) == []


def test_a_dry_run_for_people() -> None:
    result = run("install", "--dry-run", "--service", "gateway")
    assert result.exit_code == 0, result.output
    assert "(new)" in result.output
    assert "mlxmesh_gateway" in result.output
    assert "# then:" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--service", "nonsense"), "--service must be one of all, gateway"),
        (("--service", "gateway", "--replicas", "2"), "options of the whole mesh"),
        (("--env", "A"), "NAME=VALUE"),
        (("--env", "A=x\ny"), "on one line"),
        (("--env", "A B=x"), "NAME=VALUE"),
    ],
)
def test_wrong_options_say_what_is_right(arguments: tuple[str, ...], message: str) -> None:
    result = run("install", "--dry-run", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_mesh_that_runs_by_hand_is_not_doubled(tmp_path: Path) -> None:
    record = RecordFile(tmp_path)
    record.claim()
    try:
        result = run("install", "--yes", "--data-dir", str(tmp_path))
    finally:
        record.release()
    assert result.exit_code == 1
    assert "mlxmesh down" in result.stderr or "systemctl is not on this host" in result.stderr


def test_a_service_needs_what_the_mesh_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxmesh_cli.commands.up.missing_packages", lambda: ["mlx"])
    result = run("install", "--dry-run")
    assert result.exit_code == 1
    assert "mlxmesh[all]" in result.stderr
    assert run("install", "--dry-run", "--service", "gateway").exit_code == 0


def test_without_a_terminal_nothing_is_removed_unasked() -> None:
    installed = Installer(host_services(Scope.USER), SubprocessRunner(), service_name("all")).path
    installed.parent.mkdir(parents=True)
    installed.touch()
    result = run("uninstall")
    assert result.exit_code == 1
    assert "repeat with --yes" in result.stderr


@pytest.mark.parametrize("answer", [(), ("--yes",)])
def test_what_is_not_installed_cannot_be_removed(answer: tuple[str, ...]) -> None:
    result = run("uninstall", "--json", *answer)
    assert result.exit_code == 1
    assert json.loads(result.stderr)["error"]["reason"] == "NOT_INSTALLED"


def test_open_prints_the_address(tmp_path: Path) -> None:
    missing = run("open", "--print", "--data-dir", str(tmp_path))
    assert missing.exit_code == 3
    assert "mlxmesh up" in missing.stderr
    record = RecordFile(tmp_path)
    record.claim()
    try:
        record.publish("0.0.0.0:50051", http="0.0.0.0:8051", control="127.0.0.1:1")
        assert (
            run("open", "--print", "--data-dir", str(tmp_path)).stdout == "http://127.0.0.1:8051\n"
        )
        tls = tmp_path / "tls"
        record.publish("h:50051", http="h:8051", control="127.0.0.1:1", tls_dir=tls)
        printed = run("open", "--json", "--data-dir", str(tmp_path)).stdout
        assert json.loads(printed) == {"console": "https://h:8051"}
        record.publish("h:50051", control="127.0.0.1:1")
        assert "http_listen" in run("open", "--print", "--data-dir", str(tmp_path)).stderr
    finally:
        record.release()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_and_installed(shell: str, home: Path) -> None:
    script = run("completion", shell).stdout
    assert f"_MLXMESH_COMPLETE=complete_{shell}" in script
    result = run("completion", shell, "--install", "--json")
    assert result.exit_code == 0, result.output
    path = Path(json.loads(result.stdout)["path"])
    assert path.is_relative_to(home)
    assert path.read_text().strip() == script.strip()


def test_completion_knows_its_own_words() -> None:
    assert completed("mlxmesh help tro") == ["troubleshooting"]
    assert completed("mlxmesh connect co") == ["codex", "continue"]
    # There is no mesh: quick and quiet.
    assert completed("mlxmesh jobs show ") == []
    assert completed("mlxmesh drain gen") == []


def completed(line: str) -> list[str]:
    """What Tab offers at the end of the line."""
    env = {
        "_MLXMESH_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "MLXMESH_ADDRESS": "127.0.0.1:1",
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "mlxmesh"],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_menu_bar_is_refused_elsewhere() -> None:
    result = run("menubar")
    if sys.platform != "darwin":
        assert result.exit_code == 1
        assert "mlxmesh top" in result.stderr


def test_a_checkout_says_how_it_is_upgraded() -> None:
    result = run("upgrade", "--check", "--json")
    assert result.exit_code == 1
    assert "git pull" in json.loads(result.stderr)["error"]["message"]
