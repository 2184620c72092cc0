"""The `mlxmesh` command in this process."""

from __future__ import annotations

from collections.abc import Mapping

from typer.testing import CliRunner, Result

from mlxmesh_cli.commands.app import app
from mlxmesh_cli.commands.named_command import with_named_command


def mlxmesh(*arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Result:
    """Runs a command as `__main__` does; its errors are in the result."""
    return CliRunner().invoke(
        with_named_command(app, arguments), list(arguments), input=stdin, env=env
    )
