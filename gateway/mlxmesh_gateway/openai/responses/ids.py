"""Ids of responses, and where their streams are resumed. Pure."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qs

from mlxmesh_gateway.http.idempotency import IDEMPOTENCY_KEY, LAST_EVENT_ID, NUMBERING
from mlxmesh_shared.errors import InvalidArgument

MAX_SEQUENCE_DIGITS = 18
ROUND = "."
"""Separates the id of a response with MCP tools from the number of its generation."""
_LEGAL_ID = re.compile(r"resp_m?[0-9a-f]{48}")
_WITH_TOOLS = "resp_m"
_POSITION = re.compile(rf"([0-9]{{1,18}})\.([0-9]{{1,18}}){NUMBERING}")


def new_response_id(headers: Mapping[str, str]) -> str:
    """The same for the same Idempotency-Key, else one that nobody can guess.

    Raises: InvalidArgument for an empty key.
    """
    key = headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return f"resp_{secrets.token_hex(24)}"
    if not key:
        raise InvalidArgument(f"the header {IDEMPOTENCY_KEY} is empty", field=IDEMPOTENCY_KEY)
    return f"resp_{hashlib.sha256(key.encode()).hexdigest()[:48]}"


def new_tool_response_id() -> str:
    """Of a response that may consist of several generations, which its id tells."""
    return f"{_WITH_TOOLS}{secrets.token_hex(24)}"


def has_tools(response_id: str) -> bool:
    """Whether a response may consist of several generations."""
    return response_id.startswith(_WITH_TOOLS)


def round_id(response_id: str, number: int) -> str:
    """The request_id of one of its generations."""
    return f"{response_id}{ROUND}{number}"


def is_response_id(text: str) -> bool:
    """Whether a response can have this id."""
    return _LEGAL_ID.fullmatch(text) is not None


def query_of(query: bytes) -> dict[str, str]:
    """The parameters of a query; of one that is repeated, the last value."""
    pairs = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    return {name: values[-1] for name, values in pairs.items()}


def wants_stream(query: Mapping[str, str]) -> bool:
    """Raises: InvalidArgument."""
    asked = query.get("stream", "false")
    if asked not in ("true", "false"):
        raise InvalidArgument("stream must be true or false", field="stream")
    return asked == "true"


class EventPosition(NamedTuple):
    """The last event that a client has, and the message of the generation that made it."""

    event: int = -1
    """Its sequence_number; -1 for none."""
    message: int = 0
    numbering: int = 0
    """Of the message; 0 for unknown, as is the message then."""
    last_numbered: int = 0
    """Of a number alone: no later message can have made the event; 0 for unknown."""

    def __str__(self) -> str:
        message = f".{self.message}@{self.numbering:x}" if self.numbering else ""
        return f"{self.event}{message}"


def after_event(headers: Mapping[str, str], query: Mapping[str, str]) -> EventPosition:
    """Where a client resumes: after an event's number, or its id. Raises: InvalidArgument."""
    for field, asked in (
        ("starting_after", query.get("starting_after")),
        (LAST_EVENT_ID, headers.get(LAST_EVENT_ID)),
    ):
        if asked is not None:
            match = _POSITION.fullmatch(asked)
            if match is None:
                return EventPosition(whole_number(asked, field))
            return EventPosition(int(match[1]), int(match[2]), int(match[3], 16))
    return EventPosition()


def whole_number(text: str, field: str) -> int:
    """Raises: InvalidArgument."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_SEQUENCE_DIGITS):
        raise InvalidArgument(f"{field} must be a whole number", field=field)
    return int(text)
