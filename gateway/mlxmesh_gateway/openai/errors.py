"""Errors in OpenAI's JSON shape. Pure."""

from __future__ import annotations

import re

from grpc import StatusCode

from mlxmesh_shared.errors import MeshError, MessageTooLarge

_TYPES = {
    StatusCode.UNAUTHENTICATED: "authentication_error",
    StatusCode.PERMISSION_DENIED: "permission_error",
    StatusCode.NOT_FOUND: "not_found_error",
    StatusCode.RESOURCE_EXHAUSTED: "rate_limit_error",
}
# Where a field of the contracts is, if not where OpenAI has it.
_PREFIX = re.compile(r"^(generation\.)?(sampling\.|chat\.(?=messages))?")
_TOKEN_IDS = re.compile(r"^tokens(\.token_ids)?(?![A-Za-z_])")


def error_body(error: MeshError, status: int) -> dict[str, object]:
    """The body of a response that reports an error, in the names of OpenAI's fields."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    field = _in_openai(error.field)
    return {
        "error": {
            "message": _renamed(error.message, error.field, field),
            "type": kind if isinstance(error, MessageTooLarge) else _TYPES.get(error.code, kind),
            "param": field or None,
            "code": error.reason.lower(),
        }
    }


def unmatched_body(message: str, code: str) -> dict[str, object]:
    """The body of a response to a request that no route takes."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return {"error": error}


def _in_openai(field: str) -> str:
    return _TOKEN_IDS.sub("prompt", _PREFIX.sub("", field))


def _renamed(message: str, field: str, name: str) -> str:
    return name + message[len(field) :] if field and message.startswith(field) else message
