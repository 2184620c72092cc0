"""Errors as gRPC statuses and `Failure` messages, and back.

Only the server turns an error into a status (`to_status`). A client rebuilds the class from the
reason, never from text (`from_rpc_error`). In a stream of many sequences, and in records, a
`Failure` carries the same facts.

Source: AIP-193 (exactly one ErrorInfo per status).
"""

from typing import Any, NamedTuple, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import (  # pyright: ignore[reportMissingTypeStubs] - they are in the package
    error_details_pb2,
    status_pb2,
)
from grpc import StatusCode, aio
from grpc_status import rpc_status

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh_shared.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    IllegalState,
    Internal,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    MethodNotFound,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
    Unauthenticated,
    error_classes,
)

DOMAIN = "mlxmesh"
# Statuses travel in trailing metadata, of which many clients accept 8 KiB in all.
MAX_MESSAGE_CHARACTERS = 1500
_DETAILS_KEY = "grpc-status-details-bin"

# A status without our ErrorInfo comes from gRPC itself or from a foreign server. Its text may say
# anything, so ours replaces it.
_WITHOUT_REASON: dict[StatusCode, tuple[type[MeshError], str]] = {
    StatusCode.INVALID_ARGUMENT: (InvalidArgument, "the request is invalid"),
    StatusCode.NOT_FOUND: (NotFound, "not found"),
    StatusCode.ALREADY_EXISTS: (AlreadyExists, "it already exists"),
    StatusCode.FAILED_PRECONDITION: (IllegalState, "not possible in the current state"),
    StatusCode.UNIMPLEMENTED: (MethodNotFound, "the server has no such method"),
    StatusCode.UNAUTHENTICATED: (Unauthenticated, "credentials are missing or invalid"),
    StatusCode.PERMISSION_DENIED: (PermissionDenied, "the caller is not permitted to do this"),
    StatusCode.RESOURCE_EXHAUSTED: (
        MessageTooLarge,
        "the message or its metadata is larger than the receiver accepts; send less",
    ),
    StatusCode.UNAVAILABLE: (
        ServiceUnavailable,
        "the service is unreachable or has stopped; try again",
    ),
    StatusCode.DEADLINE_EXCEEDED: (
        DeadlineExceeded,
        "the deadline passed before the response was complete; allow more time",
    ),
    StatusCode.CANCELLED: (Cancelled, "the call was cancelled"),
}
_INTERNAL = (Internal, "the peer failed; see its log")
_CODES = {code.value[0]: code for code in StatusCode}
# The last class with a reason wins, so that INTERNAL is Internal and not its base.
_BY_REASON = {cls.reason: cls for cls in error_classes()}


def _rebuild(
    code: StatusCode, reason: str, message: str, field: str, retry_delay_s: float | None
) -> MeshError:
    cls = _BY_REASON.get(reason)
    if cls is None or cls.code != code:
        # A newer peer sent a reason without a class in this version; its code and text count.
        cls = _WITHOUT_REASON.get(code, _INTERNAL)[0]
    return cls(message, field=field, retry_delay_s=retry_delay_s)


def to_failure(error: MeshError) -> Failure:
    """The error as a message, for one of many sequences or for a record."""
    return Failure(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        field=error.field,
        retry_delay_ms=round((error.retry_delay_s or 0) * 1000),
    )


def from_failure(failure: Failure) -> MeshError:
    """The error that a `Failure` describes."""
    code = _CODES.get(failure.code, StatusCode.INTERNAL)
    delay_s = failure.retry_delay_ms / 1000 if failure.retry_delay_ms else None
    return _rebuild(code, failure.reason, failure.message, failure.field, delay_s)


def to_status(error: MeshError) -> grpc.Status:
    """The rich status of an error: ErrorInfo always, BadRequest and RetryInfo where they fit."""
    return cast("Any", rpc_status).to_status(_rich_status(to_failure(error)))


def to_rpc_error(failure: Failure) -> aio.AioRpcError:
    """The error of a call that ends with a failure. Without a reason it is one of gRPC's own."""
    trailing = aio.Metadata()
    if failure.reason:
        trailing.add(_DETAILS_KEY, _rich_status(failure).SerializeToString())
    code = _CODES.get(failure.code, StatusCode.INTERNAL)
    return aio.AioRpcError(code, aio.Metadata(), trailing, details=failure.message)


def _rich_status(failure: Failure) -> status_pb2.Status:
    message = failure.message[:MAX_MESSAGE_CHARACTERS]
    status = status_pb2.Status(code=failure.code, message=message)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN)]
    if failure.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=failure.field, description=message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if failure.retry_delay_ms:
        delay = Duration()
        delay.FromMilliseconds(failure.retry_delay_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def from_rpc_error(error: aio.AioRpcError) -> MeshError:
    """The error in a peer's answer: by the reason of its ErrorInfo, else by its code."""
    known = _from_metadata(error.code(), error.trailing_metadata())
    if known is not None:
        return known
    cls, message = _WITHOUT_REASON.get(error.code(), _INTERNAL)
    return cls(message)


def from_status(status: grpc.Status | Any) -> MeshError:
    """The error that a status of this process describes, for a call that is one stream of many.

    status: has code, details and trailing_metadata.
    """
    trailing = aio.Metadata.from_tuple(tuple(status.trailing_metadata or ()))
    known = _from_metadata(status.code, trailing)
    return known or _WITHOUT_REASON.get(status.code, _INTERNAL)[0](status.details)


def _from_metadata(code: StatusCode, metadata: aio.Metadata | None) -> MeshError | None:
    encoded = metadata.get(_DETAILS_KEY) if metadata is not None else None
    if not isinstance(encoded, bytes):
        return None
    try:
        status = status_pb2.Status.FromString(encoded)
    except DecodeError:
        return None
    details = _details(status)
    if not details.reason:
        return None
    return _rebuild(code, details.reason, status.message, details.field, details.retry_delay_s)


class _Details(NamedTuple):
    reason: str
    """Empty without an ErrorInfo of ours."""
    field: str
    retry_delay_s: float | None


def _details(status: status_pb2.Status) -> _Details:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for packed in status.details:
        # Unpacks only into the message of its own type.
        for detail in (info, bad_request, retry):
            packed.Unpack(detail)
    violations = bad_request.field_violations
    return _Details(
        reason=info.reason if info.domain == DOMAIN else "",
        field=violations[0].field if violations else "",
        retry_delay_s=retry.retry_delay.ToMilliseconds() / 1000
        if retry.HasField("retry_delay")
        else None,
    )
