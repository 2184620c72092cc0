"""Errors in OpenAI's JSON shape. Pure."""

from __future__ import annotations

from grpc import StatusCode

from mlxmesh_shared.errors import MeshError

_TYPES = {
    StatusCode.UNAUTHENTICATED: "authentication_error",
    StatusCode.PERMISSION_DENIED: "permission_error",
    StatusCode.NOT_FOUND: "not_found_error",
    StatusCode.RESOURCE_EXHAUSTED: "rate_limit_error",
}


def error_body(error: MeshError, status: int) -> dict[str, object]:
    """The body of a response that reports an error."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(error.code, kind),
            "param": error.field or None,
            "code": error.reason.lower(),
        }
    }
