"""Only the command that the arguments name is built, and every one can be named."""

from __future__ import annotations

from typing import Any, cast

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from mlxmesh_cli.commands.app import app
from mlxmesh_cli.commands.named_command import with_named_command
from tests.command_line import mlxmesh

WHOLE: dict[str, Any] = cast("Any", get_command(app)).commands


@pytest.mark.parametrize("name", sorted(set(WHOLE) - {"help"}))
def test_the_named_command_is_the_only_one_and_the_same(name: str) -> None:
    smaller = cast("Any", get_command(with_named_command(app, [name, "--help"])))
    assert list(smaller.commands) == [name]
    help_text = CliRunner().invoke(app, [name, "--help"]).output
    assert mlxmesh(name, "--help").output == help_text
    assert "Usage: " in help_text


@pytest.mark.parametrize(
    "arguments", [[], ["--api-key", "k", "users"], ["user"], ["--help"], ["help", "--man"]]
)
def test_without_a_known_name_it_is_whole(arguments: list[str]) -> None:
    assert with_named_command(app, arguments) is app
    assert set(cast("Any", get_command(app)).commands) == set(WHOLE)
