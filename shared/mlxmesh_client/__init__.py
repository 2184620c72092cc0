"""The asynchronous Python client of a mesh.

Errors are classes: catch `MeshError` for all of them, or the one you can do something about.
"""

from mlxmesh_client.client import MeshClient
from mlxmesh_client.generations import GenerationEvent
from mlxmesh_client.request import GenerateOptions, InputOptions, Message
from mlxmesh_shared.errors import (
    Cancelled,
    ContextTooLong,
    DeadlineExceeded,
    FeatureNotSupported,
    GenerationExists,
    GenerationNotFound,
    IllegalState,
    InsufficientMemory,
    Internal,
    InvalidArgument,
    MeshError,
    MessagesExpired,
    MessageTooLarge,
    ModelNotFound,
    ModelNotLoaded,
    NoReplica,
    PermissionDenied,
    QueueFull,
    ReaderReplaced,
    ServiceUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from mlxmesh_shared.tls import CertificateFiles

__all__ = [
    "Cancelled",
    "CertificateFiles",
    "ContextTooLong",
    "DeadlineExceeded",
    "FeatureNotSupported",
    "GenerateOptions",
    "GenerationEvent",
    "GenerationExists",
    "GenerationNotFound",
    "IllegalState",
    "InputOptions",
    "InsufficientMemory",
    "Internal",
    "InvalidArgument",
    "MeshClient",
    "MeshError",
    "Message",
    "MessageTooLarge",
    "MessagesExpired",
    "ModelNotFound",
    "ModelNotLoaded",
    "NoReplica",
    "PermissionDenied",
    "QueueFull",
    "ReaderReplaced",
    "ServiceUnavailable",
    "TooManyRequests",
    "Unauthenticated",
]
