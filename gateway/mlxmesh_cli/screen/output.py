"""How output is printed: JSON, colours, and a console that is as wide as its reader.

Nothing heavy is imported at the top: `mlxmesh --help` must not pay for it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from rich.console import Console, RenderableType

# Files and pipes have no width: tables lose no column there, and rows are never folded.
PIPED_COLUMNS = 10_000
DEFAULT_COLUMNS = 80


def is_watched() -> bool:
    """Whether somebody reads standard output on a terminal, whatever FORCE_COLOR says."""
    return sys.stdout.isatty()


def terminal_columns() -> int:
    """The width of the terminal now; 80 where there is none, or it claims to have none."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if columns := os.get_terminal_size(stream.fileno()).columns:
                return columns
    return DEFAULT_COLUMNS


def console() -> Console:
    """Standard output: as wide as the terminal, and without a width elsewhere."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            """Left to `commands`, like that of every other print."""
            raise

    width = None if is_watched() or os.environ.get("COLUMNS") else PIPED_COLUMNS
    return Output(width=width, highlight=False)


def print_view(view: RenderableType) -> None:
    """Prints what is laid out by lines; one that is too wide is never cut or folded here."""
    console().print(view, crop=False)


def say(text: str, colour: str | None = None, *, err: bool = False, nl: bool = True) -> None:
    """Prints text, in colour on a terminal; NO_COLOR and FORCE_COLOR are obeyed."""
    typer.secho(text, fg=colour, err=err, nl=nl, color=_wants_colour())


def _wants_colour() -> bool | None:
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def print_json(value: object) -> None:
    """Prints one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: object, *, err: bool = False) -> None:
    """Prints one JSON document on a line of its own."""
    typer.echo(json.dumps(value, ensure_ascii=False), err=err)


def to_dict(message: Any) -> dict[str, Any]:
    """A protobuf message as data for JSON: the contract's field names, states in short words.

    States are those of the tables: `serving`, not `HEALTH_SERVING`. As everywhere in the JSON of
    protobuf, numbers of 64 bits are strings.
    """
    from google.protobuf.json_format import MessageToDict

    data = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _shorten_enums(message.DESCRIPTOR, data)
    return data


def _shorten_enums(message: Descriptor, data: dict[str, Any]) -> None:
    for field in message.fields:
        value = data.get(field.name)
        if value is None or (field.enum_type is None and field.message_type is None):
            continue
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            held = kind.fields_by_name["value"]
            data[field.name] = {key: _shortened(held, each) for key, each in value.items()}
        elif field.is_repeated:
            data[field.name] = [_shortened(field, each) for each in value]
        else:
            data[field.name] = _shortened(field, value)


def _shortened(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_word(field.enum_type.name, value)
    # Times and durations are texts already.
    if field.message_type is not None and not isinstance(value, str):
        _shorten_enums(field.message_type, value)
    return value


def enum_word(enum: str, value: str) -> str:
    """`not_serving` for HEALTH_NOT_SERVING of the enum Health."""
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum).upper() + "_"
    return value.removeprefix(prefix).lower()
