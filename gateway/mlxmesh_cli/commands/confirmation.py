"""Questions before something is changed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mlxmesh_cli.commands.failures import fail

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> bool:
    """Whether to go on. Without a terminal the command ends unless --yes was given."""
    if yes:
        return True
    if not sys.stdin.isatty():
        fail(
            f"{question} There is no terminal to ask at; repeat with --yes", reason="NOT_CONFIRMED"
        )
    return typer.confirm(question, err=True)
