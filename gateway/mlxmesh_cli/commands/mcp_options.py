"""Options of the commands about MCP servers, and the secrets in them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxmesh_cli.commands.failures import fail

Env = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=VALUE]",
        help="Variable of the command; VALUE may be @FILE, and is taken from here without one.",
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Header of each request; VALUE may be @FILE."),
]
Arguments = Annotated[str, typer.Argument(metavar="[JSON|@FILE]", help="Arguments, a JSON object.")]


def secrets_of(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """What the values of an option say; ends the command if they are unusable."""
    found: dict[str, str] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not separator:
            value = _from_environment(name, option)
        elif value.startswith("@"):
            value = _read(Path(value[1:])).partition("\n")[0].rstrip("\r")
        found[name.strip()] = value
    return found


def arguments_of(text: str) -> dict[str, Any]:
    """The arguments of a call; ends the command if they are no JSON object."""
    content = _read(Path(text[1:])) if text.startswith("@") else text
    try:
        value = json.loads(content or "{}")
    except ValueError as error:
        fail(f"the arguments are not JSON: {error}", reason="INVALID_FIELD")
    if not isinstance(value, dict):
        fail("the arguments must be a JSON object", reason="INVALID_FIELD")
    return value  # pyright: ignore[reportUnknownVariableType]


def _from_environment(name: str, option: str) -> str:
    if option != "--env":
        fail(f"{option} needs NAME=VALUE", reason="INVALID_FIELD")
    if name not in os.environ:
        fail(f"there is no variable {name} here; name its value: --env {name}=VALUE")
    return os.environ[name]


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text("utf-8")
    except UnicodeDecodeError:
        fail(f"{path} is not UTF-8")
    except OSError as error:
        fail(f"{path}: {error.strerror}", reason="FILE_ERROR")
