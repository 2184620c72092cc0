"""What the end of a call says: of the instance that had it, and to the client that made it."""

import grpc
from grpc import aio

from mlxmesh_gateway.limits import Metadata
from mlxmesh_shared.breaker import Permit
from mlxmesh_shared.errors import Cancelled, Draining, MeshError, ServiceUnavailable

Status = tuple[grpc.StatusCode, str, Metadata]

STATUS_DETAILS = "grpc-status-details-bin"


def is_gone(error: MeshError) -> bool:
    """Whether the instance could not be reached, broke off, or is leaving."""
    broke_off = isinstance(error, ServiceUnavailable | Cancelled) and service_status(error) is None
    return broke_off or isinstance(error, Draining)


def tell_breaker(permit: Permit, error: MeshError) -> None:
    """Ends a call that failed: an instance that is gone takes no more, whatever it did before."""
    if is_gone(error) and not isinstance(error, Cancelled):
        permit.failed(at_once=True)
    else:
        permit.ended_by(error)


def service_status(error: MeshError) -> Status | None:
    """The status as a service of the mesh wrote it; gRPC's own have no details and give None."""
    cause = error.__cause__
    trailing = cause.trailing_metadata() if isinstance(cause, aio.AioRpcError) else None
    details = trailing.get(STATUS_DETAILS) if trailing is not None else None
    if details is None or not isinstance(cause, aio.AioRpcError):
        return None
    return cause.code(), cause.details() or "", ((STATUS_DETAILS, details),)
