"""What a caller asks a generation for, and the events that answer it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.reference import ModelReference


@dataclass(frozen=True)
class PromptText:
    """Raw text, tokenized unchanged."""

    text: str
    field = "prompt"


@dataclass(frozen=True)
class ChatTurn:
    """One turn; `role` is what chat templates expect: system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """A conversation, oldest turn first."""

    turns: tuple[ChatTurn, ...]
    add_generation_prompt: bool = True
    field = "chat"


@dataclass(frozen=True)
class PromptTokens:
    """Token ids, used unchanged."""

    token_ids: Sequence[int]
    field = "tokens"


# `field` is the name of the request field for errors about the input.
PromptInput = PromptText | Chat | PromptTokens


@dataclass(frozen=True)
class SamplingOptions:
    """The sampling options, forwarded to the engine as the caller sent them.

    Generation reads only the two fields beside `encoded`, so a new option needs no change here.
    """

    encoded: bytes = b""
    seed: int | None = None
    biased_token_ids: Collection[int] = ()


@dataclass(frozen=True)
class GenerationRequest:
    """One generation as the caller asked for it."""

    request_id: str
    model: ModelReference
    input: PromptInput
    max_tokens: int | None = None
    sampling: SamplingOptions = SamplingOptions()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    priority: int = 0
    caller: str = ""
    """The key of fair shares."""
    owner: str = ""
    """The namespace of the request_id."""
    message_bytes: int = 0
    """The encoded size of the request."""
    digest: bytes | None = None
    """Equal for equal requests; None when the caller did not choose the request_id."""
    detached: bool = False
    """It runs to its end without a reader."""
    kept: bytes = b""
    """The encoded request, if it is to be retained with the messages."""

    @property
    def key(self) -> "GenerationKey":
        return GenerationKey(self.owner, self.request_id)


class GenerationKey(NamedTuple):
    """Identifies a generation; two owners may use the same request_id."""

    owner: str
    request_id: str


@dataclass(frozen=True)
class CountRequest:
    """A request to count the tokens of an input."""

    model: ModelReference
    input: PromptInput
    caller: str = ""
    message_bytes: int = 0


@dataclass(frozen=True)
class Resumed:
    """The output that the caller already received of a generation from another process."""

    token_ids: Sequence[int]
    text_characters: int
    after_sequence: int
    resumptions: int
    """How often it was resumed before."""
    started: "Started | None" = None
    """The first event that the caller received."""
    received: "Sequence[Event]" = ()
    """All events that the caller received; empty if they are not to be retained."""


@dataclass(frozen=True)
class Started:
    """An engine has accepted the generation."""

    request_id: str
    model: str
    model_version: int
    engine_id: str
    prompt_tokens: int
    cached_tokens: int
    seed: int
    created_ms: int = 0
    """When, in milliseconds since 1970."""


@dataclass(frozen=True)
class PrefillProgress:
    """How much of a long prompt has been prefilled."""

    processed_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class Delta:
    """New output; the text may lag behind the tokens."""

    text: str
    token_ids: tuple[int, ...]


class FinishReason(Enum):
    """Why a generation ended without an error."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Timings:
    """Time spent in each stage, in milliseconds."""

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True)
class Finished:
    """The last event of a generation without an error; at most one of the two stops is set."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    stop_text: str | None = None
    stop_token_id: int | None = None
    timings: Timings = Timings()
    resumptions: int = 0


Event = Started | PrefillProgress | Delta | Finished


@dataclass(frozen=True)
class Snapshot:
    """A retained generation as far as it has come."""

    request: bytes
    """Encoded; empty if it is not kept."""
    events: Sequence[Event]
    error: MeshError | None
    """Why it failed."""
