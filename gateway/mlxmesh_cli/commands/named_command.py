"""The command line without the commands that its arguments do not name.

Building all of them takes longer than what most of them do.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import typer
from typer.main import get_command_name


def with_named_command(app: typer.Typer, arguments: Sequence[str]) -> typer.Typer:
    """The same command line with only the command or group that the first argument names.

    Whole where that is none, such as an option, and for `help`: suggestions, completion and the
    manual page need every name.
    """
    named = [name for name in arguments[:1] if name != "help"]
    commands = [
        each
        for each in app.registered_commands
        if [each.name or get_command_name(getattr(each.callback, "__name__", ""))] == named
    ]
    groups = [each for each in app.registered_groups if [each.name] == named]
    if not commands and not groups:
        return app
    smaller = copy.copy(app)
    smaller.registered_commands, smaller.registered_groups = commands, groups
    return smaller
