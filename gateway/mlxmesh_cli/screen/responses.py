"""Prints a streamed response: wrapped between words on a terminal, unchanged elsewhere."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlxmesh_cli.screen.output import is_terminal, terminal_columns, to_dict
from mlxmesh_cli.screen.word_wrap import WordWrap

if TYPE_CHECKING:
    from mlxmesh.generation.v1.generation_pb2 import Finished, Started
    from mlxmesh_client import GenerationEvent, MeshClient

DEFAULT_MODEL = "pocket"


@dataclass
class Response:
    """The response received so far."""

    pieces: list[str] = field(default_factory=list[str])
    started: Started | None = None
    finished: Finished | None = None

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(self.pieces)

    def add(self, event: GenerationEvent) -> None:
        """Adds the next event."""
        self.pieces.append(event.text)
        self.started = event.started or self.started
        self.finished = event.finished or self.finished

    def as_dict(self) -> dict[str, Any]:
        """As `mlxmesh generate --json` prints it."""
        parts = {"started": self.started, "finished": self.finished}
        known = {name: to_dict(part) for name, part in parts.items() if part is not None}
        return {"text": self.text, **known}


async def show(
    events: AsyncGenerator[GenerationEvent],
    response: Response | None = None,
    *,
    quiet: bool = False,
) -> Response:
    """Prints a response while it arrives and returns it; `response`, if given, is filled."""
    response = response or Response()
    writer = _Writer(quiet=quiet)
    try:
        async with aclosing(events):
            async for event in events:
                response.add(event)
                writer.write(event.text)
    finally:
        writer.end(of_line=bool(response.text or response.finished))
    return response


class _Writer:
    """Writes streamed text to standard output."""

    def __init__(self, *, quiet: bool) -> None:
        self._wrap = WordWrap(terminal_columns) if is_terminal() else None
        self._quiet = quiet

    def write(self, text: str) -> None:
        self._put(self._wrap.feed(text) if self._wrap is not None else text)

    def end(self, *, of_line: bool) -> None:
        rest = self._wrap.flush() if self._wrap is not None else ""
        self._put(rest + ("\n" if of_line else ""))

    def _put(self, text: str) -> None:
        if text and not self._quiet:
            sys.stdout.write(text)
            sys.stdout.flush()


async def default_model(client: MeshClient) -> str:
    """The model for requests that name none: `pocket`, or else the first with a ready replica.

    Raises: MeshError.
    """
    serving = [
        model.name
        for model in await client.list_models()
        if any(version.ready_replicas for version in model.versions)
    ]
    return DEFAULT_MODEL if DEFAULT_MODEL in serving or not serving else serving[0]
