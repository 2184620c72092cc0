"""Two answers to one request, and why there is no second one. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from mlxmesh_shared.errors import (
    Cancelled,
    DeadlineExceeded,
    InsufficientMemory,
    InvalidArgument,
    MeshError,
    ModelNotLoaded,
    NoReplica,
    NotFound,
    QueueFull,
    TooManyRequests,
)


class DropReason(Enum):
    """Why a sampled request was not repeated, or not compared."""

    NO_ROOM = "no_room"
    FAILED = "failed"
    TIMEOUT = "timeout"
    PRIMARY_INCOMPLETE = "primary_incomplete"
    UNSUPPORTED = "unsupported"


_NO_ROOM = (Cancelled, InsufficientMemory, ModelNotLoaded, NoReplica, QueueFull, TooManyRequests)
_OF_VERSION = (InvalidArgument, NotFound)


def reason_of(error: MeshError) -> DropReason:
    """Why a repetition that failed with an error is dropped; a Cancelled one had to yield."""
    if isinstance(error, _NO_ROOM):
        return DropReason.NO_ROOM
    if isinstance(error, DeadlineExceeded):
        return DropReason.TIMEOUT
    # The primary's version accepted the same request, so it is this version that cannot.
    if isinstance(error, _OF_VERSION):
        return DropReason.UNSUPPORTED
    return DropReason.FAILED


@dataclass(frozen=True)
class Answer:
    """The tokens of output 0, and how fast they came."""

    token_ids: Sequence[int] = ()
    ttft_ms: float = 0.0
    tokens_per_second: float = 0.0
    """After the first token; 0 with fewer than two."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How two answers differ; it has no text."""

    request_id: str
    from_version: int
    end_ms: int
    """When the repetition ended, in milliseconds since 1970."""
    equal: bool
    first_difference: int
    edit_distance: float
    primary_tokens: int
    shadow_tokens: int
    primary_ttft_ms: float
    shadow_ttft_ms: float
    primary_tokens_per_second: float
    shadow_tokens_per_second: float
