"""What a request of the Connect protocol asks for, told by its verb and headers. Pure.

Source: connectrpc.com/docs/protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from enum import Enum
from typing import Any

from mlxmesh_gateway.connect.compression import ENCODINGS, GZIP, IDENTITY
from mlxmesh_gateway.connect.errors import connect_status
from mlxmesh_gateway.connect.methods import ConnectMethod
from mlxmesh_gateway.http.door import MAX_TIMEOUT_MS, TIMEOUT_MS
from mlxmesh_shared.errors import InvalidArgument, MeshError, NotImplementedYet

EVENT_STREAM = "text/event-stream"
_UNARY = ("application/json", "application/proto")
_STREAM = ("application/connect+json", "application/connect+proto")
_EVENTS = ("application/json",)
_VERSION = "connect-protocol-version"
_TIMEOUT = "connect-timeout-ms"
CONTENT_ENCODING = "content-encoding"
STREAM_ENCODING = "connect-content-encoding"
COMPRESSED = "mlxmesh_compressed"
"""The key of an ASGI scope that says whether the body, or the message in it, is compressed."""


class Shape(Enum):
    """How a request and its answer are carried."""

    UNARY = "unary"
    UNARY_GET = "unary by GET"
    STREAM_JSON = "application/connect+json"
    STREAM_PROTO = "application/connect+proto"
    EVENTS = "events"
    EVENTS_GET = "events by GET"


class Refused(Exception):
    """A request that HTTP itself has a status for."""

    def __init__(
        self, status: int, error: MeshError, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.headers = headers


def shape_of(verb: str, headers: Mapping[str, str], method: ConnectMethod) -> Shape:
    """Raises: Refused, InvalidArgument."""
    if headers.get(_VERSION, "1") != "1":
        raise InvalidArgument(f"the header {_VERSION} must be 1", field=_VERSION)
    events = EVENT_STREAM in headers.get("accept", "").lower()
    if verb == "GET" and method.reads:
        return Shape.EVENTS_GET if method.streams else Shape.UNARY_GET
    if verb != "POST":
        verbs = "GET, POST" if method.reads else "POST"
        error = NotImplementedYet(f"this method takes only {verbs.replace(', ', ' and ')}")
        raise Refused(405, error, [("allow", verbs)])
    accepted = _EVENTS if events else _STREAM
    if not method.streams:
        accepted = _UNARY
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in accepted:
        raise Refused(415, _other_type(method, accepted), [("accept-post", ", ".join(accepted))])
    if not method.streams:
        return Shape.UNARY
    return Shape.EVENTS if events else Shape(content_type)


def with_encoding(
    scope: MutableMapping[str, Any], headers: Mapping[str, str], shape: Shape
) -> MutableMapping[str, Any]:
    """The request with its compression noted, which other edges refuse. Raises: Refused."""
    in_envelope = shape in (Shape.STREAM_JSON, Shape.STREAM_PROTO)
    name = STREAM_ENCODING if in_envelope else CONTENT_ENCODING
    encoding = headers.get(name, IDENTITY).strip().lower()
    if encoding not in ENCODINGS:
        error = NotImplementedYet(f"the {name} must be one of {', '.join(ENCODINGS)}")
        raise Refused(connect_status(error), error, [("accept-encoding", GZIP)])
    kept = [pair for pair in scope["headers"] if in_envelope or pair[0] != name.encode()]
    return {**scope, "headers": kept, COMPRESSED: encoding == GZIP}


def as_mesh_headers(
    scope: MutableMapping[str, Any], headers: Mapping[str, str]
) -> MutableMapping[str, Any]:
    """The request with the deadline in the header that all edges know. Raises: InvalidArgument."""
    asked = headers.get(_TIMEOUT)
    if asked is None or TIMEOUT_MS in headers:
        return scope
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 10 and int(asked) > 0):
        raise InvalidArgument(
            f"the header {_TIMEOUT} must be a whole number of at most 10 digits, from 1",
            field=_TIMEOUT,
        )
    timeout = str(min(int(asked), MAX_TIMEOUT_MS)).encode()
    return {**scope, "headers": [*scope["headers"], (TIMEOUT_MS.encode(), timeout)]}


def _other_type(method: ConnectMethod, accepted: Sequence[str]) -> NotImplementedYet:
    types = " or ".join(accepted)
    message = f"the body must have the header content-type: {types}"
    if method.streams and accepted is _STREAM:
        message += f"; or send JSON with the header accept: {EVENT_STREAM}"
    return NotImplementedYet(message)
