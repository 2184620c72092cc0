"""Errors in OpenAI's JSON shape. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from grpc import StatusCode

from mlxmesh_gateway.openai.field_names import (
    Names,
    batch_name,
    chat_name,
    completion_name,
    embedding_name,
    response_name,
)
from mlxmesh_shared.errors import MeshError, MessageTooLarge

_TYPES = {
    StatusCode.UNAUTHENTICATED: "authentication_error",
    StatusCode.PERMISSION_DENIED: "permission_error",
    StatusCode.NOT_FOUND: "not_found_error",
    StatusCode.RESOURCE_EXHAUSTED: "rate_limit_error",
}

ErrorBody = Callable[[MeshError, int], dict[str, object]]
"""The body of a response that reports an error with a status."""


def _error_body(names: Names, error: MeshError, status: int) -> dict[str, object]:
    """The body of a response that reports an error, in the names of OpenAI's fields."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    field = names(error.field)
    return {
        "error": {
            "message": _renamed(error.message, error.field, field),
            "type": kind if isinstance(error, MessageTooLarge) else _TYPES.get(error.code, kind),
            "param": field or None,
            "code": error.reason.lower(),
        }
    }


chat_error_body: ErrorBody = partial(_error_body, chat_name)
completion_error_body: ErrorBody = partial(_error_body, completion_name)
response_error_body: ErrorBody = partial(_error_body, response_name)
embedding_error_body: ErrorBody = partial(_error_body, embedding_name)
batch_error_body: ErrorBody = partial(_error_body, batch_name)
error_body = chat_error_body
"""Of routes whose requests are no generations."""


def unmatched_body(message: str, code: str) -> dict[str, object]:
    """The body of a response to a request that no route takes."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return {"error": error}


def _renamed(message: str, field: str, name: str) -> str:
    return name + message[len(field) :] if field and message.startswith(field) else message
