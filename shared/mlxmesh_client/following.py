"""Watches events, and reconnects when the gateway is lost."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from mlxmesh.telemetry.v1.events_pb2 import WatchEventsResponse
from mlxmesh_shared.errors import DeadlineExceeded, MeshError, ServiceUnavailable

PAUSE_S = 1.0
# Number of event ids that are remembered, to drop duplicates from another gateway.
MAX_REMEMBERED = 8192

Open = Callable[[int | None, str], AsyncGenerator[WatchEventsResponse]]
"""Opens a watch after a sequence number of a log; None starts with the oldest event."""


async def follow(
    open_: Open,
    after_sequence: int | None,
    *,
    on_lost: Callable[[MeshError], None] = lambda _: None,
    pause_s: float = PAUSE_S,
) -> AsyncGenerator[WatchEventsResponse]:
    """Yields each event once, across reconnects; a Gap reports what may be missing.

    Raises errors other than the loss of a gateway, for example PermissionDenied.
    """
    log_id, seen = "", dict[str, None]()
    while True:
        try:
            async with aclosing(open_(after_sequence, log_id)) as responses:
                async for one in responses:
                    after_sequence, log_id = one.sequence, one.log_id
                    if one.event.event_id not in seen:
                        yield one
                    if one.HasField("event"):
                        _remember(seen, one.event.event_id)
        except DeadlineExceeded:
            continue  # the client's own timeout: the gateway is not lost
        except ServiceUnavailable as error:
            on_lost(error)
        await asyncio.sleep(pause_s)


def _remember(seen: dict[str, None], event_id: str) -> None:
    seen[event_id] = None
    if len(seen) > MAX_REMEMBERED:
        del seen[next(iter(seen))]
