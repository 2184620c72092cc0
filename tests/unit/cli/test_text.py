"""How the commands read their prompt."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mlxmesh_cli.commands.app import app


@pytest.mark.parametrize("command", ["generate", "tokens"])
@pytest.mark.parametrize("words", [[], ["-"], [""]])
def test_an_empty_prompt_is_refused(command: str, words: list[str]) -> None:
    """A model that is asked nothing answers all the same, and a script would go on with that."""
    result = CliRunner().invoke(app, [command, *words], input="")
    assert result.exit_code == 1
    assert (
        result.stderr
        == "error: the prompt is empty; give it as an argument, or on standard input\n"
    )


@pytest.mark.parametrize("command", ["generate", "tokens"])
def test_a_prompt_is_utf8(command: str) -> None:
    result = CliRunner().invoke(app, [command], input=b"\xff")
    assert result.stderr == "error: the prompt is not UTF-8\n"
