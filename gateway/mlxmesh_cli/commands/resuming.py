"""Responses that break off: what the user is told, and gives to `mlxmesh attach --after`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlxmesh_cli.mesh.location import resolve_data_dir, with_data_dir
from mlxmesh_cli.screen.output import say

if TYPE_CHECKING:
    from mlxmesh_cli.screen.responses import Response

_POSITION = re.compile(r"([0-9]{1,18})(?:@([1-9a-f][0-9a-f]{0,7}))?")


def position_of(text: str) -> tuple[int, int]:
    """The sequence number and the numbering of a position such as 12@1f0c, or 12 with numbering 0.

    Raises: typer.BadParameter.
    """
    match = _POSITION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(
            "must be a position as a command printed it, such as 12@1f0c, or a sequence number",
            param_hint="--after",
        )
    return int(match[1]), int(match[2] or "0", 16)


@contextmanager
def told_how_to_resume(
    request_id: str, response: Response, address: str | None, data_dir: Path | None
) -> Generator[None]:
    """Around the reading of a response that is retained: if it breaks off, says how to go on."""
    from mlxmesh_shared.errors import ReaderReplaced, ServiceUnavailable

    def command() -> str:
        last = response.last
        if last is None or last.is_last:
            return ""
        numbering = f"@{last.numbering:x}" if last.numbering else ""
        attach = with_data_dir(f"attach {request_id}", data_dir or resolve_data_dir(None))
        where = f" --address {address}" if address else ""
        return f"{attach}{where} --after {last.sequence}{numbering}"

    try:
        yield
    except (ServiceUnavailable, ReaderReplaced) as error:
        if resume := command():
            error.message += f"; resume it with `{resume}`"
        raise
    except asyncio.CancelledError:
        if resume := command():
            say(f"to resume it: {resume}", err=True)
        raise


@contextmanager
def told_how_to_read_all(request_id: str, numbering: int) -> Generator[None]:
    """Around an attach after a position: if no instance has it, says how to get the whole text."""
    from mlxmesh_shared.errors import GenerationNotFound

    try:
        yield
    except GenerationNotFound as error:
        if numbering:
            error.message += (
                f"; if another instance has it now, `mlxmesh attach {request_id}` without --after"
                " prints it from its start"
            )
        raise
