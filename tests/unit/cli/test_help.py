"""The command's shape: every command teaches itself, and help costs no heavy import."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from typer.main import get_command

from mlxmesh_cli.commands.app import app
from tests.command_line import mlxmesh

GROUP = cast("Any", get_command(app))
GROUPS = sorted(name for name in GROUP.commands if hasattr(GROUP.commands[name], "commands"))
COMMANDS: list[str] = sorted(GROUP.commands)


def test_the_promised_commands_are_there() -> None:
    promised = {
        "up", "down", "status", "models", "pull", "load", "unload", "alias", "generate", "chat",
        "tokens", "logs", "config", "doctor", "drain", "restart", "attach", "trace", "certs",
        "users", "keys", "quotas", "usage", "audit", "login", "logout", "whoami",
    }  # fmt: skip
    assert promised <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help(command: str) -> None:
    result = mlxmesh(command, "--help")
    assert result.exit_code == 0
    described = GROUP.commands[command]
    assert described.help
    assert "Example: mlxmesh " in result.output or hasattr(described, "commands")
    for parameter in described.params:
        assert getattr(parameter, "help", None), f"{command} {parameter.name}"
    assert not re.search(r"--[a-z-]+ <list", result.output)


def test_the_list_of_commands_cuts_no_line() -> None:
    lines = mlxmesh("--help").output.splitlines()
    listed = [line for line in lines if line.split(" ")[2:3] and line.split()[0] in COMMANDS]
    assert len(listed) == len(COMMANDS)
    assert not [line for line in listed if line.endswith("...")]


@pytest.mark.parametrize("group", [[], *([name] for name in GROUPS)])
def test_no_line_of_a_list_is_cut_on_80_columns(group: list[str]) -> None:
    output = mlxmesh(*group, "--help", env={"COLUMNS": "80"}).output
    commands = output.partition("\nCommands:\n")[2]
    assert commands
    assert "..." not in commands


SUBCOMMANDS = [(group, name) for group in GROUPS for name in GROUP.commands[group].commands]


def test_the_promised_groups_are_there() -> None:
    promised = {
        "artifacts", "batch", "certs", "config", "ensembles", "experiment", "files", "jobs", "keys",
        "mcp", "models", "profiles", "queues", "quotas", "rollout", "shadow", "users",
    }  # fmt: skip
    assert promised <= set(GROUPS)


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_every_subcommand_has_an_example(command: tuple[str, str]) -> None:
    output = mlxmesh(*command, "--help").output
    assert not re.search(r"--[a-z-]+ <list", output)
    assert f"Example: mlxmesh {' '.join(command)}" in " ".join(output.split())


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_every_subcommand_explains_its_options_and_has_json(command: tuple[str, str]) -> None:
    group, name = command
    described = GROUP.commands[group].commands[name]
    assert described.help
    for parameter in described.params:
        assert getattr(parameter, "help", None), f"{command} {parameter.name}"
    # Those of the first two call no mesh, and the last one's output is a protocol.
    if group not in ("certs", "config") and command != ("mcp", "serve"):
        assert "json" in {parameter.name for parameter in described.params}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mlxmesh', '--help']\n"
        "from mlxmesh_cli.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'grpc', 'mlx', 'opentelemetry', 'transformers', 'pydantic', 'sqlalchemy',\n"
        "    'prompt_toolkit', 'rich', 'google'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["up", "--grpc-port", "99999"],
        ["up", "--replicas", "0"],
        ["load"],
        ["pull", "qwen"],
        ["load", "pocket", "--replicas", "65"],
        ["alias", "pocket", "stable", "-1"],
        ["generate", "--max-tokens", "many"],
        ["logs", "-n", "-1"],
        ["models", "--address", "nonsense"],
        ["models", "--json", "show", "pocket"],
        ["models", "show"],
        ["models", "set"],
        ["keys", "revoke"],
        ["users", "set-role", "ada", "boss"],
        ["nonsense"],
    ],
)
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    assert mlxmesh(*arguments).exit_code == 2


DOCS = Path(__file__).parents[3] / "docs/clients.md"
LINES = [
    line
    for text in re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for line in text.replace("\\\n", "").splitlines()
    if line.startswith("mlxmesh generate")
]


@pytest.mark.parametrize("line", LINES)
def test_the_documented_lines_are_legal(line: str) -> None:
    _, command, *arguments = shlex.split(line)
    context = GROUP.commands[command].make_context(command, arguments)
    assert context.params["prompt"]


def test_there_are_documented_lines() -> None:
    assert len(LINES) >= 4
