"""The contract between a generation and the engine that runs its sequence."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlxmesh_generation.domain.adapter import Adapter
from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import (
    FinishReason,
    GenerationRequest,
    PlacedImage,
    Timings,
)
from mlxmesh_shared.errors import MeshError

# Looking up an enum member takes longer than comparing it, and this is done per output.
_STOP = FinishReason.STOP


@dataclass(frozen=True)
class EngineConstraint:
    """What an engine must constrain the output to; fields are those of the engine's contract."""

    grammar: str = ""
    """json_schema, regex, lark or choices; empty for none."""
    text: str = ""
    """The grammar's text; a JSON list of texts for choices."""
    prefix_end_token_ids: tuple[int, ...] = ()
    """The end of free output before the constrained one; empty for none."""
    prefix_max_tokens: int | None = None
    field: str = ""
    """The request field that errors about it name."""


@dataclass(frozen=True)
class EngineLogprobs:
    """Packed log-probabilities of consecutive tokens, as in the engine's contract."""

    chosen: Sequence[float]
    top_token_ids: Sequence[int] = ()
    top: Sequence[float] = ()


@dataclass(frozen=True)
class SequenceRequest:
    """One sequence to submit to an engine."""

    request: GenerationRequest
    prompt_token_ids: Sequence[int]
    max_tokens: int
    seed: int
    timeout_ms: int | None = None
    generated_token_ids: Sequence[int] = ()
    """Tokens that earlier engines generated; the engine continues after them."""
    isolated: bool = False
    """The engine must not batch it with other sequences."""
    traceparent: str = ""
    constraint: EngineConstraint | None = None
    prompt_logprobs: bool = False
    """Whether the log-probabilities of the prompt are needed; the request has the other ones."""
    adapter: Adapter | None = None
    shares_prefill_of: "EngineSequence | None" = None
    """A sequence with the same prompt, submitted just before to the same engine or another."""
    images: tuple[PlacedImage, ...] = ()


@dataclass(slots=True)
class EngineOutput:
    """One output of an engine for one sequence; a finish reason or a failure is the last one.

    Not frozen: one is created per output, and freezing doubles the cost of that.
    """

    token_ids: Sequence[int] = ()
    finish_reason: FinishReason | None = None
    failure: MeshError | None = None
    accepted: bool = False
    prompt_tokens: int | None = None
    """Those of the prompt, if it has images."""
    cached_tokens: int | None = None
    prefilled_tokens: int = 0
    timings: Timings | None = None
    logprobs: EngineLogprobs | None = None
    """One for each token."""
    prompt_logprobs: EngineLogprobs | None = None
    """Of the next tokens of the prompt, from its second on."""

    @property
    def stopped(self) -> bool:
        """Whether the last of all tokens is an end token or a stop token."""
        return self.finish_reason is _STOP


class SequenceSink(Protocol):
    """Receives the outputs of one sequence; called on the event loop, must not block."""

    def on_output(self, output: EngineOutput) -> None:
        """Nothing follows a finish reason or a failure."""
        ...

    def on_lost(self, error: MeshError) -> None:
        """The sequence was lost together with its stream; nothing follows."""
        ...


class EngineSequence(Protocol):
    """A handle on a sequence that was submitted to an engine."""

    @property
    def engine_id(self) -> str: ...

    def cancel(self) -> None:
        """Asks the engine to end the sequence; the sink still receives the last output."""
        ...

    def drop(self) -> None:
        """Ends the sequence; the sink receives nothing more. A no-op once it has ended."""
        ...


class Placer(Protocol):
    """Finds an engine for a sequence."""

    def place(
        self,
        version: ModelVersion,
        request: SequenceRequest,
        sink: SequenceSink,
        *,
        avoid: Collection[str],
    ) -> EngineSequence:
        """Submits a sequence to the best engine that is not in `avoid`.

        Raises: NoReplica, QueueFull.
        """
        ...

    async def wait_for_replica(self, version: ModelVersion) -> None:
        """Returns when an engine of this version may be available.

        Has one loaded if the model's policy allows it. Raises: EngineLost when there is none, and
        none will be loaded; why a load has failed.
        """
        ...
