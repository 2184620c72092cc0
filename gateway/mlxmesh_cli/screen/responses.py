"""Prints a streamed response: wrapped between words on a terminal, unchanged elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import FINISH_REASON_LENGTH, Finished
from mlxmesh_cli.screen.output import to_dict
from mlxmesh_cli.screen.response_writer import ResponseWriter
from mlxmesh_client import GenerationEvent, MeshClient, Outputs
from mlxmesh_shared.errors import ServiceUnavailable

DEFAULT_MODEL = "pocket"


@dataclass
class Response:
    """The response received so far."""

    outputs: Outputs = field(default_factory=Outputs)
    last: GenerationEvent | None = None
    """The last event that was received."""

    @property
    def text(self) -> str:
        """The text of the first output so far."""
        return self.outputs[0].text

    @property
    def finished(self) -> Finished | None:
        """The end of the first output."""
        return self.outputs[0].finished

    def is_cut(self) -> bool:
        """Whether an output reached its maximum length."""
        ends = [self.outputs[index].finished for index in range(len(self.outputs))]
        return any(end.finish_reason == FINISH_REASON_LENGTH for end in ends if end is not None)

    def as_dict(self) -> dict[str, Any]:
        """As `mlxmesh generate --json` prints it."""
        return to_dict(self.outputs.as_response())


async def show(
    events: AsyncGenerator[GenerationEvent],
    response: Response | None = None,
    *,
    quiet: bool = False,
    expected: int = 1,
) -> Response:
    """Prints a response while it arrives and returns it; `response`, if given, is filled.

    expected: the number of outputs, which get headings if there are several.
    """
    response = response or Response()
    writer = ResponseWriter(response.outputs, expected=expected)
    try:
        async with aclosing(events):
            async for event in events:
                response.outputs.add(event)
                if not quiet:
                    writer.write(event)
                response.last = event
    finally:
        if not quiet:
            writer.end()
    return response


async def default_model(client: MeshClient) -> str:
    """The model for requests that name none: `pocket`, or else the first with a ready replica.

    Raises: MeshError.
    """
    try:
        models = await client.list_models()
    except ServiceUnavailable as error:
        raise ServiceUnavailable(
            f"no model can be chosen: {error.message}; generation may work: name a model by --model"
        ) from error
    serving = [
        model.name for model in models if any(version.ready_replicas for version in model.versions)
    ]
    return DEFAULT_MODEL if DEFAULT_MODEL in serving or not serving else serving[0]
