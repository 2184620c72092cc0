"""Prints output: text, colours, JSON, and views as wide as the terminal.

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

# Files and pipes have no width, whatever COLUMNS says: tables keep every column and every value,
# and rows are not wrapped.
PIPED_COLUMNS = 10_000
DEFAULT_COLUMNS = 80


def is_terminal() -> bool:
    """Whether standard output is a terminal, regardless of FORCE_COLOR."""
    return sys.stdout.isatty()


def terminal_columns() -> int:
    """The current width of the terminal; 80 without one, or when it reports none."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if columns := os.get_terminal_size(stream.fileno()).columns:
                return columns
    return DEFAULT_COLUMNS


def console() -> Console:
    """A console for standard output: as wide as the terminal, unlimited elsewhere."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            """Leaves the error to QuietGroup, like that of every other print."""
            raise

    return Output(width=None if is_terminal() else PIPED_COLUMNS, highlight=False)


def print_view(view: RenderableType) -> None:
    """Prints a view that lays out its own lines; nothing is cropped or wrapped here."""
    console().print(view, crop=False)


def say(
    text: str,
    colour: str | None = None,
    *,
    err: bool = False,
    nl: bool = True,
    dim: bool | None = None,
    bold: bool | None = None,
) -> None:
    """Prints text, in colour on a terminal; honours NO_COLOR and FORCE_COLOR."""
    typer.secho(text, fg=colour, err=err, nl=nl, dim=dim, bold=bold, color=_wants_colour())


def _wants_colour() -> bool | None:
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def print_json(value: object) -> None:
    """Prints one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: object, *, err: bool = False) -> None:
    """Prints a JSON document on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False), err=err)


def to_dict(message: Any) -> dict[str, Any]:
    """A protobuf message as JSON data, with the contract's field names.

    Enum values are short words: `serving`, not `HEALTH_SERVING`. As in protobuf's JSON mapping,
    64-bit numbers are strings.
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
            values = kind.fields_by_name["value"]
            data[field.name] = {key: _shortened(values, each) for key, each in value.items()}
        elif field.is_repeated:
            data[field.name] = [_shortened(field, each) for each in value]
        else:
            data[field.name] = _shortened(field, value)


def _shortened(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_word(field.enum_type.name, value)
    # Timestamps and durations are strings already.
    if field.message_type is not None and not isinstance(value, str):
        _shorten_enums(field.message_type, value)
    return value


def enum_word(enum: str, value: str) -> str:
    """`not_serving` for HEALTH_NOT_SERVING of the enum Health."""
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum).upper() + "_"
    return value.removeprefix(prefix).lower()
