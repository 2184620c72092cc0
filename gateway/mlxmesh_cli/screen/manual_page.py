"""The manual page of all commands, in roff, from their help.

Source: man-pages(7), groff_man(7).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any


def manual_page(group: Any) -> str:
    """The page mlxmesh(1) of the command line."""
    return "\n".join(_page(group)) + "\n"


def _page(group: Any) -> Iterator[str]:
    yield f'.TH MLXMESH 1 "" "mlxmesh {version("mlxmesh")}" "User Commands"'
    yield from (".SH NAME", r"mlxmesh \- serve MLX language models from a mesh of small services")
    yield from (
        ".SH SYNOPSIS",
        ".B mlxmesh",
        r"[\fIOPTION\fR]... \fICOMMAND\fR [\fIARGUMENT\fR]...",
    )
    yield ".SH DESCRIPTION"
    yield from _paragraphs(group.help)
    yield ".SH OPTIONS"
    yield from _options(group)
    yield ".SH COMMANDS"
    yield from _commands(group, "mlxmesh")


def _commands(group: Any, prefix: str) -> Iterator[str]:
    for name in group.commands:
        command = group.commands[name]
        if getattr(command, "hidden", False):
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
            continue
        yield f".SS {_escaped(f'{prefix} {name}')}"
        yield from _paragraphs(command.help)
        yield from _options(command)
        if command.epilog:
            yield ".PP"
            yield _escaped(command.epilog)


def _paragraphs(text: str | None) -> Iterator[str]:
    for paragraph in (text or "").split("\n\n"):
        yield ".PP"
        yield _escaped(" ".join(paragraph.split()))


def _options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        names = [parameter.metavar or parameter.name.upper()] if is_argument else parameter.opts
        names = [*names, *parameter.secondary_opts]
        yield ".TP"
        yield ", ".join(rf"\fB{_escaped(name)}\fR" for name in names)
        yield _escaped(" ".join((getattr(parameter, "help", None) or "").split()))


def _escaped(text: str) -> str:
    """Text that roff prints as it is."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga")
    escaped = escaped.replace("'", r"\(aq").replace("~", r"\(ti").replace("^", r"\(ha")
    return rf"\&{escaped}" if escaped.startswith((".", r"\(aq")) else escaped
