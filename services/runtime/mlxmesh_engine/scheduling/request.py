"""Plain data: requests for sequences, their updates, and the engine's load."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.scheduling.images import ImageFile, PromptImages
from mlxmesh_shared.errors import MeshError

SequenceKey = tuple[int, int]
"""(stream id, the caller's sequence id): unique in the engine while the sequence lives."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the defaults are greedy and leave the scores unchanged.

    Field names are those of the contract's Sampling: `convert` sets them by name.
    """

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
    def depends_on_output(self) -> bool:
        """Whether the generated tokens change the scores."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


class GrammarKind(Enum):
    """How a grammar is written."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"
    CHOICES = "choices"
    """A JSON list of texts."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A language that the output must belong to; equal ones are compiled once."""

    kind: GrammarKind
    text: str


@dataclass(frozen=True, slots=True)
class FreePrefix:
    """Free output before the constrained one. It ends with `end_token_ids`, one after another."""

    end_token_ids: tuple[int, ...]
    max_tokens: int | None = None
    """After so many tokens, `end_token_ids` are forced."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the output must look like."""

    grammar: Grammar | None = None
    prefix: FreePrefix | None = None


class ConstraintState(Protocol):
    """Which tokens a constraint allows next in one sequence; a function of its tokens only."""

    @property
    def consumed(self) -> int:
        """How many generated tokens it has seen."""
        ...

    @property
    def free(self) -> bool:
        """Whether it allows everything from now on."""
        ...

    @property
    def matcher(self) -> Any:
        """Llguidance's matcher that must fill the next mask first; None if none has to."""
        ...

    def consume(self, token: int) -> None: ...

    def fork(self) -> "ConstraintState":
        """A state at the same place, to look ahead with; neither changes the other."""
        ...

    def complete(self, mask: NDArray[np.int32]) -> None:
        """Completes the mask (words of 32 tokens) of the next token.

        Raises: ConstraintFailed if no token is allowed; the mask then allows everything.
        """
        ...


@dataclass(frozen=True, slots=True)
class LogprobOptions:
    """Which log-probabilities a sequence needs."""

    top: int = 0
    """How many of the most likely tokens to return beside the chosen one."""
    prompt: bool = False
    """Whether those of the prompt are needed too."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of the unchanged distribution, for consecutive tokens."""

    chosen: tuple[float, ...]
    top_token_ids: tuple[int, ...] = ()
    """The `top` most likely tokens of each place, one place after another."""
    top: tuple[float, ...] = ()

    def followed_by(self, later: "Logprobs") -> "Logprobs":
        return Logprobs(
            self.chosen + later.chosen,
            self.top_token_ids + later.top_token_ids,
            self.top + later.top,
        )


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """A LoRA adapter in files; where they are at the model service, which may be another host."""

    digest: str
    """The SHA-256 digest of its files in hexadecimal."""
    directory: str


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
    """Output of an earlier engine; counts towards max_tokens."""
    sampling: Sampling = Sampling()
    end_token_ids: frozenset[int] = frozenset()
    """The request's stop tokens and, unless it sets ignore_eos, the model's end tokens."""
    submitted_s: float = 0.0
    """On the monotonic clock, as is the deadline."""
    deadline_s: float | None = None
    priority: int = 0
    """Among the waiting sequences of one caller, the highest goes first."""
    caller: str = ""
    traceparent: str = ""
    """The parent of the sequence's spans; empty for no spans."""
    isolated: bool = False
    """Whether it may have crashed engines and must not share a batch with other sequences."""
    constraint: Constraint | None = None
    constraint_state: ConstraintState | None = field(default=None, compare=False, repr=False)
    """Of the compiled constraint, after `generated`; the sequence owns it."""
    logprobs: LogprobOptions | None = None
    background: bool = False
    """Whether it runs only with what the other sequences leave."""
    shares_prefill_of: SequenceKey | None = None
    """A sequence with the same prompt, which is prefilled once for both."""
    adapter: AdapterSource | None = None
    """The adapter to apply; its digest is in `prefix_namespace` as well."""
    prefix_namespace: bytes = b""
    """What changes its keys and values beside its tokens, as a digest of the adapter that it uses.

    Sequences of different namespaces share no prefixes and no prefill.
    """

    image_files: tuple[ImageFile, ...] = ()
    """Images that are not in the prompt yet: a token stands for each."""
    images: PromptImages | None = None
    """Those of the prompt, which has their tokens."""

    def with_images(self, images: PromptImages, namespace: bytes, max_tokens: int) -> Self:
        """The request for the prompt that has these images' tokens."""
        return replace(
            self,
            prompt=images.token_ids,
            max_tokens=max_tokens,
            image_files=(),
            images=images,
            prefix_namespace=self.prefix_namespace + namespace,
        )

    @property
    def max_total_tokens(self) -> int:
        """How many tokens its KV cache may reach."""
        return len(self.prompt) + self.max_tokens

    @property
    def complete(self) -> FinishReason | None:
        """Why nothing is left to generate, if earlier engines generated everything."""
        if self.generated and self.generated[-1] in self.end_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.generated) >= self.max_tokens else None


@dataclass(frozen=True, slots=True)
class Timings:
    """The duration of each phase of a sequence, and how many tokens it processed."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    cached_tokens: int = 0
    """Prompt tokens that the prefix cache held."""
    output_tokens: int = 0
    """Tokens that this engine generated."""
    proposed_tokens: int = 0
    """Tokens that speculation proposed; `accepted_tokens` of them are among the output."""
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """Output of one step for one sequence; the last has either a finish reason or an error."""

    sequence_id: int
    accepted: bool = False
    prompt_tokens: int | None = None
    """Those of the prompt, if images were replaced by their tokens."""
    cached_tokens: int | None = None
    """Prompt tokens that need no prefill; emitted again if it changes before prefill starts."""
    prefilled_tokens: int | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: Logprobs | None = None
    """One for each of `token_ids`."""
    prompt_logprobs: Logprobs | None = None
    """Of the next tokens of the prompt, from its second on."""
    finish_reason: FinishReason | None = None
    error: MeshError | None = None
    timings: Timings | None = None
    deferrable: bool = False
    """Whether it may be sent together with later updates: it is one more token of many."""

    @property
    def last(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    def followed_by(self, later: "Update") -> "Update":
        """Both updates merged into one."""
        return replace(
            later,
            accepted=self.accepted or later.accepted,
            prompt_tokens=self.prompt_tokens or later.prompt_tokens,
            cached_tokens=(
                self.cached_tokens if later.cached_tokens is None else later.cached_tokens
            ),
            prefilled_tokens=(
                self.prefilled_tokens if later.prefilled_tokens is None else later.prefilled_tokens
            ),
            token_ids=self.token_ids + later.token_ids,
            logprobs=_joined(self.logprobs, later.logprobs),
            prompt_logprobs=_joined(self.prompt_logprobs, later.prompt_logprobs),
        )


def _joined(one: Logprobs | None, other: Logprobs | None) -> Logprobs | None:
    return one.followed_by(other) if one is not None and other is not None else one or other


StepOutputs = dict[int, list[Update]]
"""Updates by stream id, in order."""


@dataclass(frozen=True, slots=True)
class PrefixDiskLoad:
    """The prefixes of the engine's model on disk; counts since the engine's start."""

    nbytes: int = 0
    hits: int = 0
    """Files that were read and used."""
    writes: int = 0
    corrupt: int = 0
    """Files that were damaged, and deleted."""
    errors: int = 0
    """Failed reads and writes, and prefixes that were not written because writing was slower."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is; the counts and reserved bytes are without background sequences."""

    running: int
    waiting: int
    max_running: int
    max_waiting: int
    kv_bytes: int = 0
    tokens_per_second: float = 0.0
    prefix_bytes: int = 0
    prefix_disk: PrefixDiskLoad = PrefixDiskLoad()
    prompt_tokens: int = 0
    """Of all prompts whose prefill began since the start; `cached_prompt_tokens` needed none."""
    cached_prompt_tokens: int = 0
    proposed_tokens: int = 0
    """That speculation proposed since the start; `accepted_tokens` of them became output."""
    accepted_tokens: int = 0
    kv_capacity_bytes: int = 0
    """The limit for all running sequences; 0 if unknown."""
    kv_reserved_bytes: int = 0
    """What the running and waiting sequences may need at most."""
    background_running: int = 0
    """Background sequences with keys and values, also while they pause."""
    background_waiting: int = 0
    oldest_waiting_s: float | None = None
    """When the longest waiting sequence was submitted; None with an empty queue."""
    adapters: tuple[str, ...] = ()
    """The digests of the adapters in slots."""
    idle_since_s: float | None = None
    """When the last sequence ended, or the start; None while there is one of any kind."""

    def longest_wait_s(self, now_s: float) -> float:
        """How long the oldest waiting sequence has waited; 0 with an empty queue."""
        return max(0.0, now_s - self.oldest_waiting_s) if self.oldest_waiting_s is not None else 0.0

    def idle_s(self, now_s: float) -> float:
        """How long there has been no sequence; 0 while there is one."""
        return max(0.0, now_s - self.idle_since_s) if self.idle_since_s is not None else 0.0
