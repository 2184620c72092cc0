"""Ids of server-sent events, by which a client that lost its connection goes on.

A browser's EventSource sends the last id that it got as `last-event-id` when it connects again.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.message import Message

from mlxmesh.generation.v1.generation_pb2 import AttachGenerationRequest
from mlxmesh.telemetry.v1.events_pb2 import WatchEventsRequest, WatchEventsResponse
from mlxmesh.telemetry.v1.live_pb2 import WatchRequest
from mlxmesh_gateway.http.idempotency import NUMBERING, Position

LAST_EVENT_ID = "last-event-id"
_SEQUENCE = re.compile(rf"(?:([A-Za-z0-9._-]{{1,64}}):)?([0-9]{{1,19}})(?:{NUMBERING})?")


def event_id(response: Any) -> str:
    """The id of a message; empty for one that nothing can go on after."""
    if hasattr(response, "event") and isinstance(response.event, WatchEventsResponse):
        return event_id(response.event) if response.HasField("event") else ""
    if isinstance(response, WatchEventsResponse):
        return f"{response.log_id}:{response.sequence}" if response.log_id else ""
    inner = getattr(response, "message", response)
    sequence = getattr(inner, "sequence", 0)
    if not isinstance(sequence, int) or not sequence:
        return ""
    return str(Position(sequence, numbering=getattr(inner, "numbering", 0)))


def go_on(request: Message, last_event_id: str) -> None:
    """Has the request go on after an event, if it can and the id is one of this edge."""
    match = _SEQUENCE.fullmatch(last_event_id)
    if match is None:
        return
    log_id, sequence = match[1] or "", int(match[2])
    if isinstance(request, AttachGenerationRequest) and not log_id:
        request.after_sequence, request.numbering = sequence, int(match[3] or "0", 16)
    elif isinstance(request, WatchEventsRequest) and log_id:
        request.log_id, request.after_sequence = log_id, sequence
    elif isinstance(request, WatchRequest) and log_id:
        request.event_log_id, request.after_event = log_id, sequence
