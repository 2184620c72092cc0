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
    exchange: Exchange,
    events: ResponseEvents,
    *,
    stream: Stream,
    read: Read,
    why: Why,
    after: EventPosition,
) -> None:
    """Writes the events after one of them.

    Raises: MeshError before anything was written.
    """

    async def write(encoded: bytes) -> None:
        message = read(encoded)
        if 0 < after.last_numbered < message.sequence and events.last_sequence < after.event:
            raise InvalidArgument(
                f"starting_after: event {after.event} is of an instance that does not answer; send"
                " the event's id, such as 17.12@1f0c, or retrieve the response from its beginning",
                field="starting_after",
            )
        for event in convert.feed(events, message):
            if event.sequence > after.event:
                position = EventPosition(event.sequence, message.sequence, message.numbering)
                await write_event(exchange, event, str(position))

    exchange.keep_alive()
    try:
        await stream(write)
    except MeshError as error:
        if not exchange.started and (events.last_sequence < 0 or error.field == "starting_after"):
            raise
        await _write_failure(exchange, events, error, why, after.event)
    if after.event > events.last_sequence and not exchange.started:
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
    if cause is None:
        # Told to whoever reads it, it is no part of what is replayed, so it has no id.
        broken = events.broken(error, after)
        await exchange.event(broken.data, event=broken.name)
        return
    for event in events.failed(cause):
        if event.sequence > after:
            await write_event(exchange, event)


async def write_event(exchange: Exchange, event: Event, event_id: str = "") -> None:
    """Writes one event; its id is its number by default."""
    await exchange.event(event.data, event=event.name, event_id=event_id or str(event.sequence))
