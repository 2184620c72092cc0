"""Errors as HTTP statuses and headers. Pure.

Source: the HTTP mapping in the comments of google/rpc/code.proto.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from grpc import StatusCode

from mlxmesh_shared.errors import MeshError, MessageTooLarge

_STATUSES = {
    StatusCode.CANCELLED: 499,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
}


def http_status(error: MeshError) -> int:
    """The status of a response that reports the error; 500 for what has no other."""
    if isinstance(error, MessageTooLarge):
        return 413
    return _STATUSES.get(error.code, 500)


def error_headers(error: MeshError) -> list[tuple[str, str]]:
    """When to try again, and how to authenticate, where the error says so."""
    headers: list[tuple[str, str]] = []
    if error.retry_delay_s is not None:
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_delay_s)))))
        headers.append(("retry-after-ms", str(max(1, math.ceil(error.retry_delay_s * 1000)))))
    if error.code is StatusCode.ALREADY_EXISTS:
        # Official clients try again after a 409, unless they are told not to.
        headers.append(("x-should-retry", "false"))
    if error.code is StatusCode.UNAUTHENTICATED:
        headers.append(("www-authenticate", 'Bearer realm="mlxmesh"'))
    return headers


@dataclass(frozen=True, kw_only=True)
class ErrorShape:
    """How a protocol reports errors, and the requests that they belong to."""

    body: Callable[[MeshError, int, str], object]
    """An error in the protocol's JSON, for a status and the id of the request."""
    status: Callable[[MeshError], int] = http_status
    content_type: str = "application/json"
    request_id_header: str = ""
    """Of every response, with the id of its request; empty for a protocol without one."""
