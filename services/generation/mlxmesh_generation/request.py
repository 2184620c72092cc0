"""What a generation is asked for, and what it answers: the domain, free of wire messages.

One exception: `Sampling` is handed on to the engine as it came. Generation looks only at its seed
and its token ids, so a new sampling option needs no change here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh_shared.reference import ModelReference


@dataclass(frozen=True)
class PromptText:
    """Raw text, tokenized as it is."""

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
    """Token ids, used as they are."""

    token_ids: Sequence[int]
    field = "tokens"


# Each names, as `field`, the request field that an error about it has to point at.
PromptInput = PromptText | Chat | PromptTokens


@dataclass(frozen=True)
class GenerationRequest:
    """One generation as the caller asked for it."""

    request_id: str
    model: ModelReference
    input: PromptInput
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    priority: int = 0
    caller: str = ""
    """Who shares what is contended for."""
    owner: str = ""
    """To whom the request_id belongs."""
    message_bytes: int = 0
    """The size of the request as it came."""
    digest: bytes | None = None
    """What tells whether a request is the same; None when its id was not the caller's."""

    @property
    def key(self) -> "GenerationKey":
        return GenerationKey(self.owner, self.request_id)


class GenerationKey(NamedTuple):
    """What a generation is known by: another owner's generation may have the same request_id."""

    owner: str
    request_id: str


@dataclass(frozen=True)
class CountRequest:
    """Whose tokens are to be counted, of what."""

    model: ModelReference
    input: PromptInput
    caller: str = ""
    message_bytes: int = 0


@dataclass(frozen=True)
class Resumed:
    """What the caller has of a generation that began in another process."""

    token_ids: Sequence[int]
    text_characters: int
    after_sequence: int
    resumptions: int
    """How many times it went on elsewhere before."""


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


@dataclass(frozen=True)
class PrefillProgress:
    """How much of a long prompt has been read."""

    processed_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class Delta:
    """New output; the text may lag behind the tokens."""

    text: str
    token_ids: tuple[int, ...]


class FinishReason(Enum):
    """Why a generation ended well."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Timings:
    """Where the time went, in milliseconds."""

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True)
class Finished:
    """The last event of a generation that ended well; at most one of the two stops is set."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    stop_text: str | None = None
    stop_token_id: int | None = None
    timings: Timings = Timings()
    resumptions: int = 0


Event = Started | PrefillProgress | Delta | Finished
