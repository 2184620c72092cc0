"""Errors in the shape of the Connect protocol. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.rpc import (  # pyright: ignore[reportMissingTypeStubs] - they are in the package
    error_details_pb2,
    status_pb2,
)
from grpc import StatusCode

from mlxmesh_gateway.connect.envelopes import END_STREAM, envelope
from mlxmesh_gateway.forwarding.statuses import STATUS_DETAILS, service_status
from mlxmesh_gateway.http.statuses import ErrorShape, http_status
from mlxmesh_shared.errors import MeshError, MessageTooLarge
from mlxmesh_shared.rpc.error_status import to_status

JSON = "application/json"

# Their types are known here, so that a detail can be shown as JSON too.
assert error_details_pb2.DESCRIPTOR is not None


def connect_code(code: StatusCode) -> str:
    """The name of a code; the protocol spells CANCELLED with one L."""
    return "canceled" if code is StatusCode.CANCELLED else code.name.lower()


def error_object(error: MeshError) -> dict[str, Any]:
    """The error as JSON, with the details that a gRPC client gets."""
    found: dict[str, Any] = {"code": connect_code(error.code), "message": error.message}
    if details := list(_details(error)):
        found["details"] = details
    return found


def end_of_stream(error: MeshError | None = None) -> bytes:
    """The last envelope of a stream."""
    content = {} if error is None else {"error": error_object(error)}
    return envelope(json.dumps(content, ensure_ascii=False).encode(), END_STREAM)


def connect_status(error: MeshError) -> int:
    """The HTTP status of an error, as the protocol maps its code."""
    return 429 if isinstance(error, MessageTooLarge) else http_status(error)


UNARY_ERRORS = ErrorShape(body=lambda error, _, __: error_object(error), status=connect_status)


def stream_errors(content_type: str) -> ErrorShape:
    """Errors of a stream: always status 200, and the error in the last envelope."""
    return ErrorShape(
        body=lambda error, _, __: end_of_stream(error),
        status=lambda _: 200,
        content_type=content_type,
    )


def _details(error: MeshError) -> Iterator[dict[str, Any]]:
    status = service_status(error)
    metadata = to_status(error).trailing_metadata if status is None else status[2]
    encoded = dict(metadata or ()).get(STATUS_DETAILS, b"")
    assert isinstance(encoded, bytes), "the name of the metadata ends with -bin"
    for detail in status_pb2.Status.FromString(encoded).details:
        named = {"type": detail.TypeName(), "value": base64.b64encode(detail.value).decode()}
        debug = _as_json(detail)
        yield {**named, "value": named["value"].rstrip("="), **debug}


def _as_json(detail: Any) -> dict[str, Any]:
    try:
        shown = MessageToDict(detail)
    except (TypeError, ValueError):
        return {}  # of a type that only the service knows
    shown.pop("@type", None)
    return {"debug": shown.get("value", shown)}
