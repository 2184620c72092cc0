"""What a caller asks a generation for, and the events that answer it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mlxmesh_generation.domain.adapter import Adapter
from mlxmesh_generation.domain.ensemble import Step
from mlxmesh_generation.domain.routing import UNASSIGNED, Asker, Assignment
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.reference import ModelReference


@dataclass(frozen=True)
class PromptText:
    """Raw text, tokenized unchanged."""

    text: str
    field = "prompt"


@dataclass(frozen=True)
class PastCall:
    """A tool call that an earlier turn of the model made."""

    call_id: str
    name: str
    arguments: str
    """A JSON object."""


@dataclass(frozen=True)
class Image:
    """An image file."""

    data: bytes = field(repr=False)
    path: str = ""
    """The field of the request that it came in."""


@dataclass(frozen=True)
class PlacedImage:
    """An image, and the index of the token in its prompt that stands for it."""

    image: Image
    position: int


@dataclass(frozen=True)
class ChatTurn:
    """One turn; `role` is what chat templates expect: system, user, assistant or tool."""

    role: str
    content: str
    reasoning: str = ""
    calls: tuple[PastCall, ...] = ()
    call_id: str = ""
    """The call that a turn of a tool is the result of."""
    tool_name: str = ""
    """The tool of that call."""
    parts: tuple[str | Image, ...] = ()
    """The texts and images of a turn with images, in order; empty for a turn without."""


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: str = ""
    """A JSON Schema of an object; empty for any object."""
    strict: bool = False
    """Whether the arguments of every call must satisfy the schema."""


class ToolMode(Enum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True)
class Tools:
    """The tools of a request, and how the model uses them."""

    tools: tuple[Tool, ...]
    mode: ToolMode = ToolMode.AUTO
    only: str = ""
    """The name of the only tool that may be called; empty for any."""
    parallel: bool = True
    """Whether one output may have several calls."""

    @property
    def callable(self) -> tuple[Tool, ...]:
        """Those that the model may call."""
        if self.mode is ToolMode.NONE:
            return ()
        return tuple(tool for tool in self.tools if self.only in ("", tool.name))

    @property
    def enforced(self) -> bool:
        """Whether calls must follow a grammar."""
        if self.mode is ToolMode.NONE:
            return False
        strict = any(tool.strict for tool in self.callable)
        required = self.mode is ToolMode.REQUIRED
        return required or strict or bool(self.only) or not self.parallel


@dataclass(frozen=True)
class Reasoning:
    """How the model reasons; None and empty leave it to the template."""

    enabled: bool | None = None
    effort: str = ""
    """minimal, low, medium or high."""
    budget_tokens: int | None = None


@dataclass(frozen=True)
class Chat:
    """A conversation, oldest turn first, and what its template gets beside it."""

    turns: tuple[ChatTurn, ...]
    add_generation_prompt: bool = True
    tools: Tools | None = None
    reasoning: Reasoning = Reasoning()
    field = "chat"

    @property
    def images(self) -> tuple[Image, ...]:
        """Of all turns, in order."""
        parts = (part for turn in self.turns for part in turn.parts)
        return tuple(part for part in parts if isinstance(part, Image))


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
class OutputConstraint:
    """A constraint of the caller: the name of its request field, and its text."""

    field: str
    """json_schema, regex, grammar, choice or json_object."""
    text: str
    """A JSON list of texts for choice; empty for json_object."""


@dataclass(frozen=True)
class LogprobOptions:
    """Which log-probabilities the caller wants."""

    top: int = 0
    prompt: bool = False


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
    flex: bool = False
    """Whether it runs only with what other requests leave, at half the price."""
    n: int = 1
    """How many outputs."""
    constraint: OutputConstraint | None = None
    logprobs: LogprobOptions | None = None
    session_id: str = ""
    labels: tuple[tuple[str, str], ...] = ()
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
    answers_for: str = ""
    """The request_id that it is a step of an ensemble for; empty for a request of its own."""
    adapter: str = ""
    """The name of an adapter of the model; empty for none, or where `model` names it."""

    @property
    def answer_id(self) -> str:
        """The request_id that the caller knows its answer by."""
        return self.answers_for or self.request_id

    @property
    def key(self) -> "GenerationKey":
        return GenerationKey(self.owner, self.request_id)

    @property
    def principal(self) -> str:
        """Who asks, without a name that it only claims."""
        return self.owner.partition("#")[0]

    @property
    def asker(self) -> Asker:
        """What splits assign it by."""
        user = dict(self.labels).get("user", "")
        return Asker(self.request_id, self.principal, self.session_id, user)


class GenerationKey(NamedTuple):
    """Identifies a generation; two owners may use the same request_id."""

    owner: str
    request_id: str


class ReadUpTo(NamedTuple):
    """The last message that a reader has received: its number, and who gave it."""

    sequence: int
    numbering: int


@dataclass(frozen=True)
class CountRequest:
    """A request to count the tokens of an input."""

    model: ModelReference
    input: PromptInput
    caller: str = ""
    message_bytes: int = 0


@dataclass(frozen=True)
class ReceivedOutput:
    """What the caller already received of one output from another process."""

    token_ids: Sequence[int] = ()
    text_characters: int = 0
    reasoning_characters: int = 0
    tool_calls: int = 0
    """How many tool calls began."""
    arguments_characters: int = 0
    """Of the last of these calls."""
    finished: "Finished | None" = None


@dataclass(frozen=True)
class Resumed:
    """What the caller already received of a generation from another process."""

    outputs: Mapping[int, ReceivedOutput]
    """By index; an output without one has sent nothing."""
    after_sequence: int
    resumptions: int
    """How often it was resumed before."""
    prompt_logprobs: int = 0
    """How many tokens of the prompt have their log-probabilities."""
    started: "Started | None" = None
    """The first event that the caller received."""
    received: "Sequence[Event]" = ()
    """All events that the caller received; empty if they are not to be retained."""
    numberings: Sequence[tuple[int, int]] = ()
    """Ids of who numbered what the caller received, in order, each with its last message."""
    takeover: int = 1
    """Which request to resume the stream it is, from 1."""


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
    assignment: Assignment = UNASSIGNED
    ensemble: str = ""
    """The ensemble that the request named; empty for a model."""
    steps: tuple[Step, ...] = ()
    """Of the ensemble so far; the chosen one has no usage yet."""
    adapter: Adapter | None = None


@dataclass(frozen=True)
class PrefillProgress:
    """How much of a long prompt has been prefilled."""

    processed_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    token_id: int
    logprob: float | None
    """None for the first token of a prompt."""
    text: bytes
    top: "tuple[TokenLogprob, ...]" = ()
    """The most likely tokens at this place, the most likely first."""


@dataclass(frozen=True)
class PromptLogprobs:
    """Log-probabilities of the next tokens of the prompt."""

    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class CallPiece:
    """The next piece of a tool call: its beginning, with its id and name, or more arguments."""

    index: int
    """The number of the call within its output."""
    call_id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Delta:
    """New output; the text may lag behind the tokens.

    Not frozen: one is created per token, and freezing doubles the cost of that.
    """

    text: str
    token_ids: tuple[int, ...]
    index: int = 0
    """Which output it belongs to."""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, if they were requested."""


class FinishReason(Enum):
    """Why a generation ended without an error."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True)
class Timings:
    """Time spent in each stage, in milliseconds."""

    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True)
class Finished:
    """The end of one output without an error; at most one of the two stops is set."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    stop_text: str | None = None
    stop_token_id: int | None = None
    timings: Timings = Timings()
    resumptions: int = 0
    index: int = 0
    reasoning_tokens: int = 0
    total: "TotalUsage | None" = None
    """Of all outputs; set in the last event of the generation, and only there."""
    cost: float = 0.0
    """Of all outputs, by the model's price; set in the last event."""
    calls_valid: bool | None = None
    """Whether its tool calls parse; None without one. Not part of the message."""
    steps: tuple[Step, ...] = ()
    """Of an ensemble; set in the last event."""


@dataclass(frozen=True)
class TotalUsage:
    """Token counts of all outputs, which share the prompt."""

    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were found in the prefix cache."""
    prompt_tokens: int | None = None
    """Of all steps of an ensemble; None without one."""
    device_ms: float = 0.0
    """Time that engines spent, on all steps of an ensemble."""


def device_ms_of(ends: Iterable[Finished]) -> float:
    """The time that engines spent on the outputs of a generation; a shared prefill counts once."""
    return sum(_prefill_ms(end) + end.timings.decode_ms for end in ends)


def _prefill_ms(end: Finished) -> float:
    # One that got a copy of the first output's prefill only waited for it; it lacks the last token,
    # which a decode step processes.
    copied = end.index > 0 and end.cached_tokens >= max(1, end.prompt_tokens - 1)
    return 0.0 if copied else end.timings.prefill_ms


Event = Started | PrefillProgress | PromptLogprobs | Delta | Finished


@dataclass(frozen=True)
class Snapshot:
    """A retained generation as far as it has come."""

    request: bytes
    """Encoded; empty if it is not kept."""
    events: Sequence[Event]
    error: MeshError | None
    """Why it failed."""
    numbering: int = 0
    """Of the messages that follow."""
    takeover: int = 0
    """Which request to resume the stream brought it here; 0 if it began here."""
    last_sequence: int = 0
    """The number of the last message that has one."""
