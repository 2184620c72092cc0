"""Ends generations whose clients are gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_shared.errors import MeshError

CANCEL = "/mlxmesh.generation.v1.GenerationService/CancelGeneration"
CANCEL_TIMEOUT_S = 2.0


@asynccontextmanager
async def ended_with_client(
    exchange: Exchange, request_id: Callable[[], str]
) -> AsyncGenerator[None]:
    """Cancels a retained generation with its client, or it would go on for a minute.

    request_id: of the one that runs; empty for none.
    """
    try:
        yield
    except asyncio.CancelledError:
        if own_id := request_id():
            with contextlib.suppress(MeshError, TimeoutError):
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await cancel(exchange, own_id)
        raise


async def cancel(exchange: Exchange, request_id: str, *, forget: bool = False) -> None:
    """Ends a generation. Raises: GenerationNotFound."""
    request = pb.CancelGenerationRequest(request_id=request_id, forget=forget)
    await exchange.calls.unary(CANCEL, request, pb.CancelGenerationResponse)
