"""The ids of a stream's events, by which a stream is resumed. Pure.

An id is a position, as all protocols have it, and after a hyphen the block that was open before the
next message: 1@1f0c, 2@1f0c-0r, 2.1@1f0c-0r, 3@1f0c-1t. Both are all that the events of the next
message depend on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlxmesh_gateway.anthropic.stream.convert import OpenBlock
from mlxmesh_gateway.http.idempotency import LAST_EVENT_ID, Position, position_of
from mlxmesh_shared.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class EventId:
    """How much of a stream a client has received, and the block that it is in."""

    sequence: int
    """The last message that it has received in full; 0 for none."""
    events: int = 0
    """The events of the next message that it has received as well."""
    open_block: OpenBlock | None = None
    """The block that was open before the next message."""
    numbering: int = 0
    """Of the last message of which it has an event; 0 for unknown."""

    @property
    def position(self) -> Position:
        """Without the block."""
        return Position(self.sequence, self.events, self.numbering)

    def __str__(self) -> str:
        block = "" if self.open_block is None else f"-{self.open_block.encode()}"
        return f"{self.position}{block}"


def resumed_at(headers: Mapping[str, str]) -> EventId | None:
    """Where a stream is to be resumed; None to start one. Raises: InvalidArgument."""
    position, hyphen, encoded = headers.get(LAST_EVENT_ID, "").partition("-")
    if not hyphen:
        found = position_of(headers)
        return None if found is None else _event_id(found)
    block = OpenBlock.decode(encoded)
    if block is None:
        raise InvalidArgument(
            f"the header {LAST_EVENT_ID} must be the id of an event", field=LAST_EVENT_ID
        )
    found = position_of({**headers, LAST_EVENT_ID: position})
    assert found is not None, "the header is given"
    return _event_id(found, block)


def _event_id(position: Position, block: OpenBlock | None = None) -> EventId:
    return EventId(position.sequence, position.events, block, position.numbering)
