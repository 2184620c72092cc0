"""Errors in Anthropic's JSON shape and with its statuses. Pure."""

from __future__ import annotations

from grpc import StatusCode

from mlxmesh_gateway.anthropic.fields import renamed
from mlxmesh_gateway.http.statuses import ErrorShape, http_status
from mlxmesh_shared.errors import MeshError

OVERLOADED = 529
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}


def error_status(error: MeshError) -> int:
    """Like those of other protocols, but Anthropic reports an overloaded server as 529."""
    return OVERLOADED if error.code is StatusCode.UNAVAILABLE else http_status(error)


def error_body(error: MeshError, status: int, request_id: str) -> dict[str, object]:
    """The body of a response, or the data of an event, that reports an error."""
    message = renamed(error.message, error.field)
    kind = "api_error" if status >= 500 else "invalid_request_error"
    return {
        "type": "error",
        "error": {"type": _TYPES.get(status, kind), "message": message},
        "request_id": request_id,
    }


ERRORS = ErrorShape(body=error_body, status=error_status, request_id_header="request-id")
