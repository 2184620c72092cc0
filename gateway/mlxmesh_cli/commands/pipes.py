"""Output that nobody reads on: `mlxmesh events | head` ends without a word."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from mlxmesh_cli.mesh.failures import BROKEN_PIPE, errors_as_asked


class QuietGroup(TyperGroup):
    """The whole command line; it ends as a program does that SIGPIPE ends."""

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Runs the command, and prints what is still buffered."""
        try:
            with errors_as_asked():
                result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is buffered still would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        return result
