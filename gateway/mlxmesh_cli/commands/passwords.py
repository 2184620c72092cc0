"""Reads passwords: from a terminal without echo, or from a file; never from an argument."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mlxmesh_cli.commands.failures import fail

MIN_CHARACTERS, MAX_CHARACTERS = 8, 256

PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        help="Read the password from the first line of this file; - is standard input."
        "  [default: ask]",
    ),
]


def new_password(file: Path | None, whose: str) -> str:
    """A password to set, asked for twice on a terminal; ends the command if it is unusable."""
    password = read_password(file, f"New password of {whose}")
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        fail(
            f"the password must have {MIN_CHARACTERS} to {MAX_CHARACTERS} characters",
            reason="INVALID_FIELD",
        )
    if file is None and password != read_password(None, "The same again"):
        fail("the two passwords differ; nothing was changed")
    return password


def read_password(file: Path | None, question: str) -> str:
    """A password that exists, from the file or the terminal."""
    if file is not None:
        return _first_line(file)
    if not sys.stdin.isatty():
        fail("no terminal to ask for the password; give it with --password-file FILE, or - to pipe")
    from getpass import getpass

    return getpass(f"{question}: ")


def _first_line(file: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.expanduser().read_bytes()
        return content.decode().partition("\n")[0].rstrip("\r")
    except UnicodeDecodeError:
        fail("the password is not UTF-8")
    except OSError as error:
        fail(f"{file}: {error.strerror}", reason="FILE_ERROR")
