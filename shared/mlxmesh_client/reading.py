"""A generation read to its end, through another gateway when the one in use is lost."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from mlxmesh.generation.v1.generation_pb2 import GenerateResponse
from mlxmesh_client.events import GenerationEvent, to_event
from mlxmesh_shared.errors import Draining, MeshError, ServiceUnavailable

Open = Callable[[int], AsyncGenerator[GenerateResponse]]
"""Opens the messages after a sequence number, through one gateway."""


async def read_to_end(
    gateways: Sequence[Open], *, after_sequence: int = 0, attachable: bool
) -> AsyncGenerator[GenerationEvent]:
    """Every event after a sequence number, through the first gateway while that lasts.

    One that is `attachable` is read on through the next gateway when one is lost, and through the
    same one when there is no other, until all failed in a row.

    Raises ServiceUnavailable when the stream ends without its Finished event.
    """
    sequence, turn, failures = after_sequence, 0, 0
    while True:
        try:
            async with aclosing(gateways[turn % len(gateways)](sequence)) as responses:
                async for response in responses:
                    event = to_event(response)
                    sequence, failures = event.sequence, 0
                    yield event
                    if event.finished is not None:
                        return
            error: MeshError = ServiceUnavailable(
                "the stream ended before the generation did; try again"
            )
        except MeshError as lost:
            if not _is_gateway_loss(lost):
                raise
            error = lost
        turn, failures = turn + 1, failures + 1
        if not attachable or failures > len(gateways):
            raise error


def _is_gateway_loss(error: MeshError) -> bool:
    """Whether the gateway is gone or leaves; what a service behind it says is its answer."""
    return type(error) is ServiceUnavailable or isinstance(error, Draining)
