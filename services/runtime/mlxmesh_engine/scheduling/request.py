"""What a sequence is: the request for it, its updates, and the engine's load."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from mlxmesh_shared.errors import MeshError

SequenceKey = tuple[int, int]
"""(stream id, the caller's sequence id): unique in the engine while the sequence lives."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the defaults are greedy and leave the scores alone."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def counts_output(self) -> bool:
        """Whether the tokens made so far change the scores."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


class FinishReason(Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """A legal request for one sequence: nothing in it can harm MLX."""

    key: SequenceKey
    prompt: tuple[int, ...]
    max_tokens: int
    generated: tuple[int, ...] = ()
    """Output that another engine made; counts into max_tokens."""
    sampling: Sampling = Sampling()
    end_token_ids: frozenset[int] = frozenset()
    """The request's stop tokens and, unless it ignores them, the model's own end tokens."""
    submitted_s: float = 0.0
    """On the monotonic clock, as is the deadline."""
    deadline_s: float | None = None
    priority: int = 0
    """Of the caller's sequences that wait, higher goes first."""
    caller: str = ""
    traceparent: str = ""
    """The span that the sequence's own belong under; empty when there are to be none."""
    isolated: bool = False
    """Whether it may have ended engines, and so must not share a batch with others."""

    @property
    def max_total_tokens(self) -> int:
        """How many tokens its keys and values may come to."""
        return len(self.prompt) + self.max_tokens

    @property
    def complete(self) -> FinishReason | None:
        """Why there is nothing left to generate, when another engine made all of it."""
        if self.generated and self.generated[-1] in self.end_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.generated) >= self.max_tokens else None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a sequence's time went, and on how many tokens."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    cached_tokens: int = 0
    """Prompt tokens that were not to be read."""
    output_tokens: int = 0
    """Tokens made here."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a step did to one sequence; the last one has either a finish reason or an error."""

    sequence_id: int
    accepted: bool = False
    cached_tokens: int | None = None
    """Prompt tokens that need not be read; told again when it changes before reading begins."""
    prefilled_tokens: int | None = None
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: MeshError | None = None
    timings: Timings | None = None
    may_wait: bool = False
    """Whether nobody waits for it: one more token of many."""

    @property
    def last(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    def followed_by(self, later: "Update") -> "Update":
        """Both as one, for a reader that has seen neither."""
        return replace(
            later,
            accepted=self.accepted or later.accepted,
            cached_tokens=(
                self.cached_tokens if later.cached_tokens is None else later.cached_tokens
            ),
            prefilled_tokens=(
                self.prefilled_tokens if later.prefilled_tokens is None else later.prefilled_tokens
            ),
            token_ids=self.token_ids + later.token_ids,
        )


StepOutputs = dict[int, list[Update]]
"""By stream id, in order."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is."""

    running: int
    waiting: int
    max_running: int
    max_waiting: int
    kv_bytes: int = 0
    tokens_per_second: float = 0.0
    prefix_bytes: int = 0
    prompt_tokens: int = 0
    """Of all prompts begun since the start; the next is how many of them were not to be read."""
    cached_prompt_tokens: int = 0
    kv_capacity_bytes: int = 0
    """What the sequences that run may come to need; 0 when it is not known."""
    kv_reserved_bytes: int = 0
    """What those that run or wait may come to need."""
