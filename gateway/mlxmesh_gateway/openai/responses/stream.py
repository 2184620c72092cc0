"""Writes a generation's stream as events, from any of them on."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.openai.responses import convert
from mlxmesh_gateway.openai.responses.events import Event, ResponseEvents
from mlxmesh_gateway.openai.responses.ids import EventPosition
from mlxmesh_shared.errors import InvalidArgument, MeshError

Read = Callable[[bytes], convert.Message]
"""Decodes one message."""
Stream = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
"""Writes each message of a stream, from its beginning. Raises: MeshError."""
Why = Callable[[MeshError], Awaitable[MeshError | None]]
"""After a stream broke off: why the generation failed; None if it did not."""


async def write_events(
    exchange: Exchange, events: ResponseEvents, *, stream: Stream, read: Read, why: Why, after: int
) -> None:
    """Writes the events after number `after`; -1 for all.

    Raises: MeshError before anything was written.
    """

    async def write(encoded: bytes) -> None:
        message = read(encoded)
        for event in convert.feed(events, message):
            if event.sequence > after:
                position = EventPosition(event.sequence, message.sequence, message.numbering)
                await write_event(exchange, event, str(position))

    exchange.keep_alive()
    try:
        await stream(write)
    except MeshError as error:
        if not exchange.started and events.last_sequence < 0:
            raise
        await _write_failure(exchange, events, error, why, after)
    if after > events.last_sequence and not exchange.started:
        raise InvalidArgument(
            f"starting_after: the last event has number {events.last_sequence}",
            field="starting_after",
        )
    await exchange.end_events()


async def _write_failure(
    exchange: Exchange, events: ResponseEvents, error: MeshError, why: Why, after: int
) -> None:
    cause: MeshError | None = None
    if events.last_sequence >= 0:
        with contextlib.suppress(MeshError):  # the stream breaks off either way
            cause = await why(error)
    last = [events.broken(error)] if cause is None else events.failed(cause)
    for event in last:
        # One that breaks off is told to whoever reads it; it is no part of what is replayed.
        if cause is None or event.sequence > after:
            await write_event(exchange, event)


async def write_event(exchange: Exchange, event: Event, event_id: str = "") -> None:
    """Writes one event; its id is its number by default."""
    await exchange.event(event.data, event=event.name, event_id=event_id or str(event.sequence))
