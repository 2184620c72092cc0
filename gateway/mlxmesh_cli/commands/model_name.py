"""The name of a model as an argument of commands that take its version or alias as an option."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from mlxmesh_cli.commands.completion import complete_model_name


def plain_name(name: str) -> str:
    """The name itself. Raises: BadParameter, for a reference such as qwen@2 or qwen:stable."""
    plain = re.split("[@:]", name, maxsplit=1)[0]
    if plain != name:
        raise typer.BadParameter(
            f"{name} is a version or an alias; give {plain}, and the version or the alias by an"
            " option"
        )
    return name


ModelName = Annotated[
    str,
    typer.Argument(
        help="Name of the model.", autocompletion=complete_model_name, callback=plain_name
    ),
]
EveryModel = Annotated[
    str,
    typer.Argument(
        help="Only those of this model.", autocompletion=complete_model_name, callback=plain_name
    ),
]
