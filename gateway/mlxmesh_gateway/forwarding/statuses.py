"""What an instance's failure means: an answer of the service, or the loss of the instance."""

import grpc
from grpc import aio

from mlxmesh_shared.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    MeshError,
    ServiceUnavailable,
)

Metadata = tuple[tuple[str, str | bytes], ...]
Status = tuple[grpc.StatusCode, str, Metadata]

STATUS_DETAILS = "grpc-status-details-bin"


def is_gone(error: MeshError) -> bool:
    """Whether the instance is unreachable, broke off, or is leaving."""
    unreachable = isinstance(error, ServiceUnavailable | Cancelled) and broke_off(error)
    return unreachable or isinstance(error, Draining)


def broke_off(error: MeshError) -> bool:
    """Whether gRPC ended the call, and neither its deadline nor a service did."""
    from_call = isinstance(error.__cause__, aio.AioRpcError)
    return from_call and service_status(error) is None and not isinstance(error, DeadlineExceeded)


def service_status(error: MeshError) -> Status | None:
    """The status that a service of the mesh wrote; None for gRPC's own, which have no details."""
    cause = error.__cause__
    trailing = cause.trailing_metadata() if isinstance(cause, aio.AioRpcError) else None
    details = trailing.get(STATUS_DETAILS) if trailing is not None else None
    if details is None or not isinstance(cause, aio.AioRpcError):
        return None
    return cause.code(), cause.details() or "", ((STATUS_DETAILS, details),)
