"""What can go wrong, as classes. `rpc.error_status` turns them into gRPC statuses and back."""

import re
from collections.abc import Iterator
from typing import ClassVar

from grpc import StatusCode


class MeshError(Exception):
    """An error that a caller may see: its message says what to do and contains no secrets."""

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


class AdapterInvalid(InvalidArgument): ...


class ImageInvalid(InvalidArgument): ...


class ConstraintInvalid(InvalidArgument): ...


class ConstraintTooComplex(InvalidArgument): ...


class NotFound(MeshError):
    code = StatusCode.NOT_FOUND


class ModelNotFound(NotFound): ...


class AdapterNotFound(NotFound): ...


class ProfileNotFound(NotFound): ...


class InstanceNotFound(NotFound): ...


class GenerationNotFound(NotFound): ...


class EngineNotFound(NotFound): ...


class SourceNotFound(NotFound): ...


class DownloadNotFound(NotFound): ...


class ArtifactNotFound(NotFound): ...


class TraceNotFound(NotFound): ...


class RolloutNotFound(NotFound): ...


class ExperimentNotFound(NotFound): ...


class OutcomeNotFound(NotFound): ...


class ShadowNotFound(NotFound): ...


class JobNotFound(NotFound): ...


class QueueNotFound(NotFound): ...


class FileNotFound(NotFound): ...


class ToolServerNotFound(NotFound): ...


class ToolNotFound(NotFound): ...


class UserNotFound(NotFound): ...


class KeyNotFound(NotFound): ...


class QuotaNotFound(NotFound): ...


class MethodNotFound(MeshError):
    code = StatusCode.UNIMPLEMENTED


class NotImplementedYet(MeshError):
    code, reason = StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED"


class AlreadyExists(MeshError):
    code = StatusCode.ALREADY_EXISTS


class EngineExists(AlreadyExists): ...


class GenerationExists(AlreadyExists): ...


class UserExists(AlreadyExists): ...


class JobExists(AlreadyExists): ...


class ScoreExists(AlreadyExists): ...


class ToolServerExists(AlreadyExists): ...


class NameInUse(AlreadyExists): ...


class AdapterExists(AlreadyExists): ...


class IllegalState(MeshError):
    code = StatusCode.FAILED_PRECONDITION


class ModelNotLoaded(IllegalState): ...


class ModelRefused(IllegalState): ...


class GenerationCancelled(IllegalState): ...


class ModelFilesMissing(IllegalState): ...


class ModelFilesDamaged(IllegalState): ...


class ConstraintFailed(IllegalState): ...


class UpstreamRefused(IllegalState): ...


class UpstreamFiltered(IllegalState): ...


class ToolNeedsApproval(IllegalState): ...


class Unauthenticated(MeshError):
    code = StatusCode.UNAUTHENTICATED


class PermissionDenied(MeshError):
    code = StatusCode.PERMISSION_DENIED


class ModelNotAllowed(PermissionDenied): ...


class ToolDenied(PermissionDenied): ...


class CsrfTokenInvalid(PermissionDenied): ...


class MessageTooLarge(MeshError):
    code = StatusCode.RESOURCE_EXHAUSTED


class OutputTooLarge(MeshError):
    code = StatusCode.RESOURCE_EXHAUSTED


class DiskFull(MeshError):
    code = StatusCode.RESOURCE_EXHAUSTED


class FilesFull(MeshError):
    code = StatusCode.RESOURCE_EXHAUSTED


class UploadsFull(MeshError):
    code, retryable = StatusCode.RESOURCE_EXHAUSTED, True


class QueueFull(MeshError):
    code, retryable = StatusCode.RESOURCE_EXHAUSTED, True


class InsufficientMemory(MeshError):
    code, retryable = StatusCode.RESOURCE_EXHAUSTED, True


class TooManyRequests(MeshError):
    code, retryable = StatusCode.RESOURCE_EXHAUSTED, True


class QuotaExceeded(MeshError):
    code, retryable = StatusCode.RESOURCE_EXHAUSTED, True


class DatabaseBusy(MeshError):
    code, retryable = StatusCode.UNAVAILABLE, True


class ServiceUnavailable(MeshError):
    code, retryable = StatusCode.UNAVAILABLE, True


class NotStarted(ServiceUnavailable):
    """No instance of a service that starts with its first use was ever seen."""


class NoReplica(ServiceUnavailable): ...


class NoRuntime(ServiceUnavailable): ...


class RegistryUnavailable(ServiceUnavailable): ...


class AccessUnavailable(ServiceUnavailable): ...


class IssuerUnavailable(ServiceUnavailable): ...


class EngineLost(ServiceUnavailable): ...


class EngineDraining(ServiceUnavailable): ...


class WorkerLost(ServiceUnavailable): ...


class HubUnavailable(ServiceUnavailable): ...


class FetchFailed(ServiceUnavailable): ...


class UpstreamUnavailable(ServiceUnavailable): ...


class ToolServerUnavailable(ServiceUnavailable): ...


class StreamLost(ServiceUnavailable): ...


class Draining(ServiceUnavailable): ...


class ReaderReplaced(MeshError):
    code = StatusCode.ABORTED


class MessagesExpired(MeshError):
    code = StatusCode.OUT_OF_RANGE


class DeadlineExceeded(MeshError):
    code = StatusCode.DEADLINE_EXCEEDED


class WorkerStuck(DeadlineExceeded): ...


class Cancelled(MeshError):
    code = StatusCode.CANCELLED


class Internal(MeshError): ...


class EngineFailed(Internal): ...


class Poisoned(Internal): ...


class BackEndFailed(Internal):
    retryable = True


def error_classes(root: type[MeshError] = MeshError) -> Iterator[type[MeshError]]:
    """The class and all classes derived from it, the base first."""
    yield root
    for subclass in root.__subclasses__():
        yield from error_classes(subclass)
