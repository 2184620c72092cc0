"""What can go wrong, as classes, and their two-way mapping to gRPC statuses.

A `MeshError` carries a gRPC code, a stable reason and whether a retry can help. Only the server
turns one into a status (`to_status`); a client rebuilds the class from the reason, never from text
(`from_rpc_error`). Inside a stream of many sequences the same facts travel as a `Failure`.

Source: AIP-193 (exactly one ErrorInfo per status).
"""

import re
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import (  # pyright: ignore[reportMissingTypeStubs] - they are in the package
    error_details_pb2,
    status_pb2,
)
from grpc import StatusCode
from grpc_status import rpc_status

from mlxmesh.common.v1.failure_pb2 import Failure

DOMAIN = "mlxmesh"
# Statuses travel in trailing metadata, of which many clients accept 8 KiB in all.
MAX_MESSAGE_CHARACTERS = 1500
_DETAILS_KEY = "grpc-status-details-bin"


class MeshError(Exception):
    """An error that may be told to a caller: its message says what to do and holds no secrets."""

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "reason" not in cls.__dict__:
            cls.reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).upper()

    def __init__(
        self, message: str, *, field: str = "", retry_delay_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_delay_s = retry_delay_s


class InvalidArgument(MeshError):
    code, reason = StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"


class FeatureNotSupported(InvalidArgument): ...


class MalformedMessage(InvalidArgument): ...


class ContextTooLong(InvalidArgument): ...


class NotFound(MeshError):
    code = StatusCode.NOT_FOUND


class ModelNotFound(NotFound): ...


class GenerationNotFound(NotFound): ...


class EngineNotFound(NotFound): ...


class SourceNotFound(NotFound): ...


class TraceNotFound(NotFound): ...


class MethodNotFound(MeshError):
    code = StatusCode.UNIMPLEMENTED


class AlreadyExists(MeshError):
    code = StatusCode.ALREADY_EXISTS


class EngineExists(AlreadyExists): ...


class GenerationExists(AlreadyExists): ...


class IllegalState(MeshError):
    code = StatusCode.FAILED_PRECONDITION


class ModelNotLoaded(IllegalState): ...


class ModelRefused(IllegalState): ...


class ModelFilesMissing(IllegalState): ...


class Unauthenticated(MeshError):
    code = StatusCode.UNAUTHENTICATED


class PermissionDenied(MeshError):
    code = StatusCode.PERMISSION_DENIED


class MessageTooLarge(MeshError):
    code = StatusCode.RESOURCE_EXHAUSTED


class DiskFull(MeshError):
    code = StatusCode.RESOURCE_EXHAUSTED


class QueueFull(MeshError):
    code, retryable = StatusCode.RESOURCE_EXHAUSTED, True


class InsufficientMemory(MeshError):
    code, retryable = StatusCode.RESOURCE_EXHAUSTED, True


class TooManyRequests(MeshError):
    code, retryable = StatusCode.RESOURCE_EXHAUSTED, True


class CatalogueBusy(MeshError):
    code, retryable = StatusCode.UNAVAILABLE, True


class ServiceUnavailable(MeshError):
    code, retryable = StatusCode.UNAVAILABLE, True


class NoReplica(ServiceUnavailable): ...


class NoRuntime(ServiceUnavailable): ...


class RegistryUnavailable(ServiceUnavailable): ...


class EngineLost(ServiceUnavailable): ...


class EngineDraining(ServiceUnavailable): ...


class HubUnavailable(ServiceUnavailable): ...


class Draining(ServiceUnavailable): ...


class ReaderReplaced(MeshError):
    code = StatusCode.ABORTED


class MessagesExpired(MeshError):
    code = StatusCode.OUT_OF_RANGE


class DeadlineExceeded(MeshError):
    code = StatusCode.DEADLINE_EXCEEDED


class Cancelled(MeshError):
    code = StatusCode.CANCELLED


class Internal(MeshError): ...


class EngineFailed(Internal): ...


# A status without our ErrorInfo was made by gRPC itself or by a foreign server; its text may say
# anything, so it is replaced by ours.
_WITHOUT_REASON: dict[StatusCode, tuple[type[MeshError], str]] = {
    StatusCode.INVALID_ARGUMENT: (InvalidArgument, "the request is not legal"),
    StatusCode.NOT_FOUND: (NotFound, "there is no such thing"),
    StatusCode.ALREADY_EXISTS: (AlreadyExists, "it exists already"),
    StatusCode.FAILED_PRECONDITION: (IllegalState, "not possible in the present state"),
    StatusCode.UNIMPLEMENTED: (MethodNotFound, "the server has no such method"),
    StatusCode.UNAUTHENTICATED: (Unauthenticated, "credentials are missing or not valid"),
    StatusCode.PERMISSION_DENIED: (PermissionDenied, "the caller may not do this"),
    StatusCode.RESOURCE_EXHAUSTED: (
        MessageTooLarge,
        "the message or its metadata is larger than the receiver accepts; send less",
    ),
    StatusCode.UNAVAILABLE: (
        ServiceUnavailable,
        "the service cannot be reached or went away; try again",
    ),
    StatusCode.DEADLINE_EXCEEDED: (
        DeadlineExceeded,
        "the deadline passed before the answer was complete; allow more time",
    ),
    StatusCode.CANCELLED: (Cancelled, "the call was cancelled"),
}
_INTERNAL = (Internal, "the peer failed; see its log")
_CODES = {code.value[0]: code for code in StatusCode}


def _subclasses(cls: type[MeshError]) -> Iterator[type[MeshError]]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _subclasses(subclass)


# The last one wins, so that INTERNAL is Internal and not its base.
_BY_REASON = {cls.reason: cls for cls in _subclasses(MeshError)}


def _rebuild(
    code: StatusCode, reason: str, message: str, field: str, retry_delay_s: float | None
) -> MeshError:
    cls = _BY_REASON.get(reason)
    if cls is None or cls.code != code:
        # A newer peer's reason: its class is not known here, but its code is, and so is its text.
        cls = _WITHOUT_REASON.get(code, _INTERNAL)[0]
    return cls(message, field=field, retry_delay_s=retry_delay_s)


def to_failure(error: MeshError) -> Failure:
    """The same facts as a message, for one of many sequences or for a record."""
    return Failure(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        field=error.field,
        retry_delay_ms=round((error.retry_delay_s or 0) * 1000),
    )


def from_failure(failure: Failure) -> MeshError:
    """The error that a `Failure` tells of."""
    code = _CODES.get(failure.code, StatusCode.INTERNAL)
    delay_s = failure.retry_delay_ms / 1000 if failure.retry_delay_ms else None
    return _rebuild(code, failure.reason, failure.message, failure.field, delay_s)


def to_status(error: MeshError) -> grpc.Status:
    """The rich status of an error: ErrorInfo always, BadRequest and RetryInfo where they fit."""
    message = error.message[:MAX_MESSAGE_CHARACTERS]
    status = status_pb2.Status(code=error.code.value[0], message=message)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_delay_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_delay_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        status.details.add().Pack(detail)
    return cast("Any", rpc_status).to_status(status)


def from_rpc_error(error: grpc.aio.AioRpcError) -> MeshError:
    """The error that a peer answered with, by its ErrorInfo's reason, else by its code."""
    known = _from_details(error)
    if known is not None:
        return known
    cls, message = _WITHOUT_REASON.get(error.code(), _INTERNAL)
    return cls(message)


def _from_details(error: grpc.aio.AioRpcError) -> MeshError | None:
    metadata = error.trailing_metadata()
    encoded = metadata.get(_DETAILS_KEY) if metadata is not None else None
    if not isinstance(encoded, bytes):
        return None
    try:
        status = status_pb2.Status.FromString(encoded)
        return _from_rich_status(error.code(), status)
    except DecodeError:
        return None


def _from_rich_status(code: StatusCode, status: status_pb2.Status) -> MeshError | None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for packed in status.details:
        # Unpacks only into the message of its own type.
        for detail in (info, bad_request, retry):
            packed.Unpack(detail)
    if info.domain != DOMAIN:
        return None
    violations = bad_request.field_violations
    field = violations[0].field if violations else ""
    delay_s = retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None
    return _rebuild(code, info.reason, status.message, field, delay_s)
