"""A watch of events that goes on over the loss of its gateway."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from mlxmesh.telemetry.v1.events_pb2 import WatchEventsResponse
from mlxmesh_shared.errors import DeadlineExceeded, MeshError, ServiceUnavailable

PAUSE_S = 1.0
# So many ids are remembered, to leave out what another gateway tells again.
MAX_REMEMBERED = 8192

Open = Callable[[int | None, str], AsyncGenerator[WatchEventsResponse]]
"""Begins a watch after a number of a log; None for all that is kept."""


async def follow(
    open_: Open,
    after_sequence: int | None,
    *,
    on_lost: Callable[[MeshError], None] = lambda _: None,
    pause_s: float = PAUSE_S,
) -> AsyncGenerator[WatchEventsResponse]:
    """Each event once, whatever becomes of the gateway; a Gap tells what may be missing.

    Raises whatever is no loss of the gateway, PermissionDenied for example.
    """
    log_id, seen = "", dict[str, None]()
    while True:
        try:
            async with aclosing(open_(after_sequence, log_id)) as news:
                async for one in news:
                    after_sequence, log_id = one.sequence, one.log_id
                    if one.event.event_id not in seen:
                        yield one
                    if one.HasField("event"):
                        _remember(seen, one.event.event_id)
        except DeadlineExceeded:
            continue  # the client's own limit for a call: nothing is lost
        except ServiceUnavailable as error:
            on_lost(error)
        await asyncio.sleep(pause_s)


def _remember(seen: dict[str, None], event_id: str) -> None:
    seen[event_id] = None
    if len(seen) > MAX_REMEMBERED:
        del seen[next(iter(seen))]
