"""The command that prints or installs shell completion: completion."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from mlxmesh_cli.commands.failures import fail, remember_json
from mlxmesh_cli.screen.output import print_json

PROGRAM, VARIABLE = "mlxmesh", "_MLXMESH_COMPLETE"


class Shell(StrEnum):
    """Shells with completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")],
    install: Annotated[
        bool, typer.Option("--install", help="Write it to where the shell reads it at its start.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, errors included.", callback=remember_json)
    ] = False,
) -> None:
    """Print the completion of commands, options and names for a shell, or install it.

    Names of models, keys, jobs and others come from the running mesh, within a second; without one
    there are none.
    """
    from importlib import import_module

    # What typer's own --install-completion calls; it has no other names.
    typer_completion: Any = import_module("typer.completion")
    if not install:
        script = typer_completion.get_completion_script(
            prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value
        )
        if json:
            print_json({"shell": shell.value, "script": script})
        else:
            typer.echo(script)
        return
    try:
        _, path = typer_completion.install(
            shell=shell.value, prog_name=PROGRAM, complete_var=VARIABLE
        )
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}; print it instead: `mlxmesh completion {shell}`")
    if json:
        print_json({"shell": shell.value, "path": str(path)})
    else:
        typer.echo(f"installed in {path}; it works in the next shell that you start")
