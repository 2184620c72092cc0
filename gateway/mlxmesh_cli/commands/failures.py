"""How a command ends when it fails: its exit code, and one line or one JSON document on stderr.

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
    """Called with the value of --json: errors are JSON too then."""
    _as_json.set(value)
    return value


@contextmanager
def error_format() -> Generator[None]:
    """One run of the command line: errors are text until --json is read."""
    before = _as_json.set(False)
    try:
        yield
    finally:
        _as_json.reset(before)


@contextmanager
def reported_errors() -> Generator[None]:
    """Ends the command at an error that its reader can do something about."""
    from mlxmesh_shared.errors import MeshError
    from mlxmesh_shared.settings import SettingsError

    try:
        yield
    except MeshError as error:
        fail_with(error)
    except SettingsError as error:
        fail(str(error), reason="INVALID_SETTING")
    except OSError as error:
        # Without a file name it is a broken pipe, or no fault of the reader's.
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}", reason="FILE_ERROR")
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def fail(message: str, *, exit_code: int = FAILED, reason: str = "FAILED") -> NoReturn:
    """Ends the command with this message."""
    _tell(message, {"reason": reason, "message": message})
    raise typer.Exit(exit_code)


def fail_with(error: MeshError) -> NoReturn:
    """Ends the command with what the mesh said."""
    from mlxmesh_cli.mesh.reaching import GatewayUnreachable

    _tell(described(error), _facts(error))
    raise typer.Exit(NO_MESH if isinstance(error, GatewayUnreachable) else FAILED)


def described(error: MeshError) -> str:
    """One line: the field, where it is one's fault, and what to do."""
    message = str(error)
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


def _tell(line: str, facts: dict[str, Any]) -> None:
    if _as_json.get():
        print_json_line({"error": facts}, err=True)
    else:
        say(f"error: {line}", "red", err=True)


class QuietGroup(TyperGroup):
    """The whole command line; it ends as a program does that SIGPIPE ends."""

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Runs the command, and prints what is still buffered."""
        try:
            with error_format():
                result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is buffered still would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        return result
