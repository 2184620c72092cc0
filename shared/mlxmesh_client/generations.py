"""Generation streams: their events, and resuming them when a gateway is lost."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial

from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    CancelGenerationRequest,
    GenerateRequest,
    GenerateResponse,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_client.calls import Calls
from mlxmesh_client.outputs import GenerationEvent, to_event
from mlxmesh_shared.errors import Draining, MeshError, ServiceUnavailable

CANCEL_TIMEOUT_S = 1.0
STATUS_TIMEOUT_S = 1.0
"""For the status of a call whose last message has arrived."""

Position = tuple[int, int]
"""The sequence number of the last message that was received, and its numbering; zeros for none."""
Open = Callable[[Position], AsyncGenerator[GenerateResponse]]
"""Opens the messages after a position, through one gateway."""


class GenerationStreams:
    """Opens generation streams through the first gateway, and resumes them through the others."""

    def __init__(self, gateways: Sequence[GenerationServiceStub], calls: Calls) -> None:
        self._gateways = gateways
        self._calls = calls

    async def generate(
        self, request: GenerateRequest, timeout_s: float | None
    ) -> AsyncGenerator[GenerationEvent]:
        """Yields the events of a new generation.

        With several gateways, a request without an id gets one, so that another gateway can resume
        it; leaving the loop early then cancels the generation.
        """
        has_own_id = bool(request.request_id)
        if not has_own_id and len(self._gateways) > 1:
            request.request_id = f"client-{secrets.token_hex(8)}"
        gateways = [partial(self._generated, stub, request, timeout_s) for stub in self._gateways]
        attachable = bool(request.request_id)
        try:
            async with aclosing(resuming(gateways, attachable=attachable)) as events:
                async for event in events:
                    yield event
        except (GeneratorExit, asyncio.CancelledError):
            if attachable and not has_own_id:
                with suppress(MeshError):
                    await self.cancel(request.request_id, CANCEL_TIMEOUT_S)
            raise

    async def attach(
        self, request_id: str, after: Position, timeout_s: float | None
    ) -> AsyncGenerator[GenerationEvent]:
        """Yields the events of a running or retained generation after a position."""
        gateways = [partial(self._attached, stub, request_id, timeout_s) for stub in self._gateways]
        stream = resuming(gateways, after=after, attachable=True)
        async with aclosing(stream) as events:
            async for event in events:
                yield event

    async def cancel(self, request_id: str, timeout_s: float | None) -> None:
        """Cancels a running generation."""
        request = CancelGenerationRequest(request_id=request_id)
        await self._calls.unary(self._gateways[0].CancelGeneration, request, timeout_s, safe=True)

    def _generated(
        self,
        stub: GenerationServiceStub,
        request: GenerateRequest,
        timeout_s: float | None,
        after: Position,
    ) -> AsyncGenerator[GenerateResponse]:
        if after[0]:
            return self._attached(stub, request.request_id, timeout_s, after)
        return self._calls.stream(stub.Generate, request, timeout_s, safe=True)

    async def _attached(
        self,
        stub: GenerationServiceStub,
        request_id: str,
        timeout_s: float | None,
        after: Position,
    ) -> AsyncGenerator[GenerateResponse]:
        sequence, numbering = after
        request = AttachGenerationRequest(
            request_id=request_id, after_sequence=sequence, numbering=numbering
        )
        responses = self._calls.stream(stub.AttachGeneration, request, timeout_s, safe=True)
        async with aclosing(responses):
            async for response in responses:
                yield response.message


async def resuming(
    gateways: Sequence[Open], *, after: Position = (0, 0), attachable: bool
) -> AsyncGenerator[GenerationEvent]:
    """Yields every event after a position, through the first gateway while it lasts.

    When a gateway is lost, an `attachable` generation is resumed through the next one, or through
    the same one where there is no other, until all have failed in a row.

    Raises ServiceUnavailable when the stream ends without its last event.
    """
    attempt, failures = 0, 0
    while True:
        try:
            async with aclosing(gateways[attempt % len(gateways)](after)) as responses:
                async for response in responses:
                    event = to_event(response)
                    after, failures = (event.sequence, event.numbering), 0
                    yield event
                    if event.is_last:
                        await _until_closed(responses)
                        return
            error: MeshError = ServiceUnavailable(
                "the stream ended before the generation did; try again"
            )
        except MeshError as lost:
            if not is_gateway_loss(lost):
                raise
            error = lost
        attempt, failures = attempt + 1, failures + 1
        if not attachable or failures > len(gateways):
            raise error


async def _until_closed(responses: AsyncGenerator[GenerateResponse]) -> None:
    """Waits for the status of a complete call: leaving before would cancel it, and the gateway
    would record it as cancelled.
    """
    with suppress(MeshError, TimeoutError):
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            async for _ in responses:
                pass


def is_gateway_loss(error: MeshError) -> bool:
    """Whether the gateway is unreachable or draining; other errors come from behind it."""
    return type(error) is ServiceUnavailable or isinstance(error, Draining)
