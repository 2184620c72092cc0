"""Request ids from Idempotency-Key headers, and positions in streams from Last-Event-ID. Pure.

The id of an event is the sequence number of the last message of the generation that it and the
events before it contain in full. Where a message makes several events, all but the last have the
number before, a point, and how many events of the message there were so far: 4, 5.1, 5.2, 6. After
an @ it has the message's numbering in hexadecimal: 4@1f0c, 5.1@1f0c.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlxmesh_shared.errors import InvalidArgument

IDEMPOTENCY_KEY = "idempotency-key"
LAST_EVENT_ID = "last-event-id"
_LEGAL_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Generations with such an id, which the mesh chose, are not retained.
_MESH_ID = re.compile(r"gen-[0-9a-f]{16}")
NUMBERING = "@([1-9a-f][0-9a-f]{0,7})"
"""The pattern of a numbering in the id of an event."""
_POSITION = re.compile(rf"([0-9]{{1,18}})(?:\.([1-9][0-9]{{0,2}}))?(?:{NUMBERING})?")


@dataclass(frozen=True, slots=True)
class Position:
    """How much of a stream a client has received."""

    sequence: int
    """The last message that it has received in full; 0 for none."""
    events: int = 0
    """The events of the next message that it has received as well."""
    numbering: int = 0
    """Of the last message of which it has an event; 0 for unknown."""

    @property
    def numbered_sequence(self) -> int:
        """The last message of which it has an event."""
        return self.sequence + bool(self.events)

    def __str__(self) -> str:
        events = f".{self.events}" if self.events else ""
        numbering = f"@{self.numbering:x}" if self.numbering else ""
        return f"{self.sequence}{events}{numbering}"


def request_id_of(headers: Mapping[str, str]) -> str:
    """The request_id that an Idempotency-Key stands for; empty without one.

    A key that is a legal request_id is used unchanged, so gRPC clients find the generation by it.
    Raises: InvalidArgument for an empty key.
    """
    key = headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return ""
    if not key:
        raise InvalidArgument(f"the header {IDEMPOTENCY_KEY} is empty", field=IDEMPOTENCY_KEY)
    if _LEGAL_ID.fullmatch(key) and not _MESH_ID.fullmatch(key):
        return key
    return f"key-{hashlib.sha256(key.encode()).hexdigest()}"


def position_of(headers: Mapping[str, str]) -> Position | None:
    """Where a stream is to be resumed; None to start one. Raises: InvalidArgument."""
    last = headers.get(LAST_EVENT_ID)
    if last is None:
        return None
    match = _POSITION.fullmatch(last)
    if match is None:
        raise InvalidArgument(
            f"the header {LAST_EVENT_ID} must be the id of an event", field=LAST_EVENT_ID
        )
    if IDEMPOTENCY_KEY not in headers:
        raise InvalidArgument(
            f"{LAST_EVENT_ID} needs the {IDEMPOTENCY_KEY} of the first request",
            field=LAST_EVENT_ID,
        )
    return Position(int(match[1]), int(match[2] or 0), int(match[3] or "0", 16))
