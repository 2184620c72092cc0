"""How a command fails: its exit code, and one line or one JSON document on stderr.

docs/operations.md has the table of exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperGroup

from mlxmesh_cli.screen.output import print_json_line, say

if TYPE_CHECKING:
    from mlxmesh_shared.errors import MeshError

FAILED = 1
NO_MESH = 3
INTERRUPTED = 130
BROKEN_PIPE = 141

_as_json: ContextVar[bool] = ContextVar("as_json", default=False)


def remember_json(value: bool) -> bool:
    """Typer callback of --json: makes errors JSON too."""
    _as_json.set(value)
    return value


@contextmanager
def error_format() -> Generator[None]:
    """Resets the error format to text around one run of the command line."""
    before = _as_json.set(False)
    try:
        yield
    finally:
        _as_json.reset(before)


@contextmanager
def reported_errors() -> Generator[None]:
    """Ends the command with a message at an error that the user can act on."""
    from mlxmesh_shared.errors import MeshError
    from mlxmesh_shared.settings import SettingsError

    try:
        yield
    except MeshError as error:
        fail_with(error)
    except SettingsError as error:
        fail(str(error), reason="INVALID_SETTING")
    except OSError as error:
        # Without a file name it is a broken pipe, or a bug.
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}", reason="FILE_ERROR")
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def fail(message: str, *, exit_code: int = FAILED, reason: str = "FAILED") -> NoReturn:
    """Ends the command with this message."""
    _print_error(message, {"reason": reason, "message": message})
    raise typer.Exit(exit_code)


def fail_with(error: MeshError) -> NoReturn:
    """Ends the command with an error of the mesh."""
    from mlxmesh_cli.mesh.reaching import GatewayUnreachable

    _print_error(described(error), _facts(error))
    raise typer.Exit(NO_MESH if isinstance(error, GatewayUnreachable) else FAILED)


def described(error: MeshError) -> str:
    """The message in one line, with the field that caused it."""
    message = error.message
    named = not error.field or message.startswith(error.field)
    return message if named else f"{error.field}: {message}"


def _facts(error: MeshError) -> dict[str, Any]:
    facts = {"field": error.field, "retry_delay_s": error.retry_delay_s}
    known = {name: value for name, value in facts.items() if value}
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "retryable": error.retryable,
        **known,
    }


def _print_error(line: str, facts: dict[str, Any]) -> None:
    if _as_json.get():
        print_json_line({"error": facts}, err=True)
    else:
        say(f"error: {line}", "red", err=True)


class QuietGroup(TyperGroup):
    """The command line; when its output is closed, it exits like a program that SIGPIPE ends."""

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Runs the command and flushes standard output."""
        try:
            with error_format():
                result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Otherwise the interpreter would fail again to flush at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        return result
