"""Topics of `mlxmesh help` and the manual page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import mlxmesh_cli
from mlxmesh_cli.commands.app import app
from mlxmesh_cli.commands.help_topics import ORDER, complete_topic, topic_text

GROUP = cast("Any", get_command(app))
TOPICS = Path(mlxmesh_cli.__file__).parent / "topics"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["help", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_topic_is_listed() -> None:
    assert {path.stem for path in TOPICS.glob("*.md")} == set(ORDER)
    listed = run()
    assert [line.split()[0] for line in listed.splitlines()[: len(ORDER)]] == list(ORDER)
    assert list(json.loads(run("--json"))["topics"]) == list(ORDER)
    assert complete_topic("t") == ["tools", "troubleshooting"]


@pytest.mark.parametrize("topic", ORDER)
def test_a_topic_is_short_and_printed(topic: str) -> None:
    text = topic_text(topic)
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 30
    assert run(topic) == text
    assert json.loads(run(topic, "--json")) == {"topic": topic, "text": text}


def commands_in(text: str) -> list[str]:
    """What a topic says one can type."""
    indented = re.findall(r"^    (?:sudo )?(mlxmesh [^#\n|]+)", text, re.MULTILINE)
    quoted = re.findall(r"`(mlxmesh [^`]+)`", text)
    return [*indented, *quoted]


@pytest.mark.parametrize("topic", ORDER)
def test_its_commands_and_options_exist(topic: str) -> None:
    for line in commands_in(topic_text(topic)):
        words = shlex.split(line)[1:]
        command = GROUP
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not GROUP or words[0] in ("COMMAND", "help"), line
        assert not hasattr(command, "commands") or words in ([], ["--help"]), line
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known | {"--help"}, line


def test_an_unknown_topic_names_the_others() -> None:
    result = CliRunner().invoke(app, ["help", "nonsense"])
    assert result.exit_code == 2
    assert "troubleshooting" in result.stderr


def test_a_command_that_is_no_topic_shows_its_help() -> None:
    assert run("generate").startswith("Usage: mlxmesh generate [OPTIONS]")


def test_the_manual_page_has_every_command() -> None:
    page = run("--man")
    assert page.startswith(".TH MLXMESH 1 ")
    sections = [line.replace("\\", "") for line in page.splitlines() if line.startswith(".SS ")]
    for name, command in GROUP.commands.items():
        below = [f"{name} {each}" for each in getattr(command, "commands", {})] or [name]
        assert {f".SS mlxmesh {each}" for each in below} <= set(sections)
    # A line that begins with a dot or an apostrophe would be a request.
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".PP", ".TP", ".B"}


@pytest.mark.tools
def test_the_manual_page_is_rendered_without_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "mlxmesh.1"
    file.write_text(run("--man"), encoding="utf-8")
    groff = shutil.which("groff")
    assert groff is not None, "groff is missing: apt-get install groff-base"
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-z", file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
