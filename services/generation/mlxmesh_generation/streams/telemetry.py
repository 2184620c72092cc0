"""Spans and metrics of generations, by OpenTelemetry's conventions for generative AI.

A generation has one span from its arrival to its end, with a child for each engine that runs one of
its outputs.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from mlxmesh_generation.domain.outcome import Outcome
from mlxmesh_generation.domain.request import Chat, Finished, PromptInput, PromptText
from mlxmesh_generation.domain.routing import Assignment
from mlxmesh_generation.streams import outcomes
from mlxmesh_generation.streams.outcomes import Record, Times, discard_outcome
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_shared.errors import Cancelled, MeshError, ReaderReplaced
from mlxmesh_shared.telemetry import attributes
from mlxmesh_shared.telemetry.instruments import TOKEN_TIME_BOUNDS_S, Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Telemetry
from mlxmesh_shared.telemetry.tracing import traceparent_of

_REQUEST_S = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)

# Names, units and bounds of OpenTelemetry's semantic conventions.

REQUEST_DURATION = Instrument(
    "gen_ai.server.request.duration",
    Kind.HISTOGRAM,
    "s",
    "From a generation's arrival to its end",
    _REQUEST_S,
)
TIME_TO_FIRST_TOKEN = Instrument(
    "gen_ai.server.time_to_first_token",
    Kind.HISTOGRAM,
    "s",
    "From a generation's arrival to its first token",
    _FIRST_TOKEN_S,
)
TIME_PER_OUTPUT_TOKEN = Instrument(
    "gen_ai.server.time_per_output_token",
    Kind.HISTOGRAM,
    "s",
    "Mean time between the tokens of a generation, after its first",
    TOKEN_TIME_BOUNDS_S,
)
TOKEN_USAGE = Instrument(
    "gen_ai.client.token.usage",
    Kind.HISTOGRAM,
    "{token}",
    "Tokens of a generation: gen_ai.token.type is input or output",
    _TOKENS,
)

# The mesh's own.

GENERATIONS = Instrument(
    "mlxmesh.generation.running", Kind.GAUGE, "{generation}", "Running generations"
)
RESUMPTIONS = Instrument(
    "mlxmesh.generation.resumptions",
    Kind.COUNTER,
    "{resumption}",
    "Resumptions of generations that lost their engine",
)


Decode = Callable[[Sequence[int]], str]
"""Text of token ids."""
OnEnded = Callable[[Plan, Outcome, Sequence[int], Decode], None]
"""Called once a generation has ended, with the tokens of its output 0 and how to read them."""
Labels = dict[str, AttributeValue]

PROVIDER = "mlxmesh"
_NS = 10**9


class GenerationTelemetry:
    """Telemetry of all generations; traces contain texts of `content_models` only."""

    def __init__(
        self,
        telemetry: Telemetry | None = None,
        content_models: Collection[str] = (),
        record: Record = discard_outcome,
        on_ended: OnEnded | None = None,
    ) -> None:
        """`record` is called with the outcome of each generation."""
        telemetry = telemetry or Telemetry()
        self.tracer = telemetry.tracer
        self.record = record
        self.on_ended = on_ended
        self.running = 0
        self.resumptions = 0
        metrics = telemetry.metrics
        self.durations = metrics.histogram(REQUEST_DURATION)
        self.first_tokens = metrics.histogram(TIME_TO_FIRST_TOKEN)
        self.token_times = metrics.histogram(TIME_PER_OUTPUT_TOKEN)
        self.usage = metrics.histogram(TOKEN_USAGE)
        metrics.observe_value(GENERATIONS, lambda: self.running)
        metrics.observe_value(RESUMPTIONS, lambda: self.resumptions)
        self._content_models = frozenset(content_models)

    def begin(
        self,
        plan: Plan,
        decode: Decode,
        on_ended: OnEnded | None = None,
        record: Record | None = None,
    ) -> "GenerationObserver":
        """Observes a generation as a part of the current call.

        on_ended, record: called instead of those of all generations.
        """
        # What an upstream answers has no tokens to be decoded.
        is_local = plan.version.upstream is None
        has_content = is_local and plan.version.name in self._content_models
        return GenerationObserver(
            self,
            plan,
            decode,
            on_ended or self.on_ended,
            record or self.record,
            has_content=has_content,
        )


class GenerationObserver:
    """Observes one generation. Nothing here runs per token."""

    def __init__(
        self,
        owner: GenerationTelemetry,
        plan: Plan,
        decode: Decode,
        on_ended: OnEnded | None,
        record: Record,
        *,
        has_content: bool,
    ) -> None:
        """has_content: whether its spans contain text."""
        self._owner = owner
        self._plan = plan
        self._decode = decode
        self._on_ended = on_ended
        self._record = record
        self._has_content = has_content
        self._first_token_s: float | None = None
        self._span = self._begun()
        self._context = trace.set_span_in_context(self._span, Context())
        owner.running += 1

    def _begun(self) -> Span:
        plan, operation = self._plan, _operation(self._plan.request.input)
        name = plan.version.name
        of_request: Labels = {
            attributes.OPERATION: operation,
            attributes.REQUEST_MODEL: name,
            attributes.REQUEST_ID: plan.request.answer_id,
            attributes.MODEL_VERSION: plan.version.version,
            **labels_of(plan.assignment),
        }
        if plan.adapter is not None:
            of_request[attributes.ADAPTER] = plan.adapter.name
        trace.get_current_span().set_attributes(of_request)
        more: Labels = {
            **{attributes.LABEL + key: value for key, value in plan.request.labels},
            attributes.PROVIDER: PROVIDER,
            attributes.RESPONSE_MODEL: str(plan.version),
            attributes.MAX_TOKENS: plan.max_tokens,
            attributes.INPUT_TOKENS: plan.prompt_tokens,
        }
        if plan.shadow_id:
            more[attributes.SHADOW_ID] = plan.shadow_id
        since_ns = round((time.monotonic() - plan.received_s) * _NS)
        return self._owner.tracer.start_span(
            f"{operation} {name}",
            attributes=of_request | more,
            start_time=time.time_ns() - since_ns,
        )

    def of_output(self) -> "OutputObserver":
        """Observes another one of its outputs."""
        return OutputObserver(self._owner, self._context)

    def prompt_counted(self, tokens: int) -> None:
        """How many tokens the prompt has, where only an upstream could count them."""
        self._plan = replace(self._plan, prompt_token_ids=range(tokens))
        self._span.set_attribute(attributes.INPUT_TOKENS, tokens)

    def first_token(self) -> None:
        """An output has its first token; only the first one counts."""
        if self._first_token_s is None:
            self._first_token_s = time.monotonic()

    def finished(self, ends: Sequence[Finished], token_ids: Sequence[Sequence[int]]) -> None:
        """The ends and the tokens are those of its outputs."""
        self._span.set_attributes(
            {
                attributes.FINISH_REASONS: [end.reason.value for end in ends],
                attributes.CACHED_TOKENS: ends[0].cached_tokens,
                attributes.RESUMPTIONS: sum(end.resumptions for end in ends),
            }
        )
        self._end(token_ids, {})
        self._report(outcomes.of_finished(self._plan, ends, self._times()), token_ids)

    def failed(
        self, error: MeshError, token_ids: Sequence[Sequence[int]], resumptions: int
    ) -> None:
        self._span.set_attribute(attributes.RESUMPTIONS, resumptions)
        note_error(self._span, error)
        self._end(token_ids, {attributes.ERROR_TYPE: error.reason})
        # It goes on elsewhere, and its outcome is recorded there.
        if isinstance(error, ReaderReplaced):
            return
        counts = [len(each) for each in token_ids]
        self._report(outcomes.of_failed(self._plan, error, counts, self._times()), token_ids)

    def _report(self, outcome: Outcome, token_ids: Sequence[Sequence[int]]) -> None:
        self._record(outcome)
        if self._on_ended is not None:
            self._on_ended(self._plan, outcome, token_ids[0] if token_ids else (), self._decode)

    def _times(self) -> Times:
        return Times(self._first_token_s, time.monotonic())

    def _end(self, token_ids: Sequence[Sequence[int]], failure: Labels) -> None:
        self._owner.running -= 1
        counts = [len(each) for each in token_ids]
        self._span.set_attribute(attributes.OUTPUT_TOKENS, sum(counts))
        if self._has_content and self._span.is_recording():
            self._record_content(self._decode, token_ids)
        self._measure(counts, failure)
        self._span.end()

    def _measure(self, counts: Sequence[int], failure: Labels) -> None:
        plan, owner, now_s = self._plan, self._owner, time.monotonic()
        labels: Labels = {
            attributes.OPERATION: _operation(plan.request.input),
            attributes.PROVIDER: PROVIDER,
            attributes.REQUEST_MODEL: plan.version.name,
            attributes.MODEL_VERSION: plan.version.version,
        }

        def record(histogram: Histogram, value: float, more: Labels) -> None:
            histogram.record(value, labels | more, self._context)

        if not plan.request.flex:  # its times would hide those that a caller waits for
            record(owner.durations, now_s - plan.received_s, failure)
        record(owner.usage, plan.prompt_tokens, {attributes.TOKEN_TYPE: "input"})
        record(owner.usage, sum(counts), {attributes.TOKEN_TYPE: "output"})
        if self._first_token_s is not None and not plan.request.flex:
            record(owner.first_tokens, self._first_token_s - plan.received_s, {})
            # Outputs are generated at the same time.
            if (longest := max(counts, default=0)) > 1:
                record(owner.token_times, (now_s - self._first_token_s) / (longest - 1), {})

    def _record_content(self, decode: Decode, token_ids: Sequence[Sequence[int]]) -> None:
        outputs = [("assistant", decode(each)) for each in token_ids]
        self._span.set_attributes(
            {
                attributes.INPUT_MESSAGES: _content(_messages(self._plan, decode)),
                attributes.OUTPUT_MESSAGES: _content(outputs),
            }
        )


class OutputObserver:
    """Observes one output of a generation: a span for each engine that runs it."""

    def __init__(self, owner: GenerationTelemetry, context: Context) -> None:
        self._owner = owner
        self._context = context
        self._engine_span = trace.INVALID_SPAN

    def start_attempt(self) -> str:
        """Starts the span of an attempt to place it; returns the traceparent for the engine.

        The span of a failed attempt is discarded.
        """
        self._engine_span = self._owner.tracer.start_span("execute", self._context, SpanKind.CLIENT)
        return traceparent_of(self._engine_span)

    def placed(self, engine_id: str) -> None:
        self._engine_span.set_attribute(attributes.ENGINE_ID, engine_id)

    def resumed(self) -> None:
        """It is resumed after the loss of its engine."""
        self._owner.resumptions += 1

    def engine_failed(self, error: MeshError) -> None:
        note_error(self._engine_span, error)
        self.ended()

    def ended(self) -> None:
        """No engine runs it any more."""
        self._engine_span.end()
        self._engine_span = trace.INVALID_SPAN


def labels_of(assignment: Assignment) -> Labels:
    """Those of the arm, without what is empty."""
    labels: Labels = {
        attributes.ARM: assignment.arm,
        attributes.ROLLOUT_ID: assignment.rollout_id,
        attributes.EXPERIMENT_ID: assignment.experiment_id,
    }
    return {name: value for name, value in labels.items() if value}


def _operation(source: PromptInput) -> str:
    return "chat" if isinstance(source, Chat) else "text_completion"


def _messages(plan: Plan, decode: Decode) -> list[tuple[str, str]]:
    """The role and text of each message."""
    source = plan.request.input
    if isinstance(source, Chat):
        return [(turn.role, turn.content) for turn in source.turns]
    text = source.text if isinstance(source, PromptText) else decode(source.token_ids)
    return [("user", text)]


def _content(messages: Iterable[tuple[str, str]]) -> str:
    """Messages with parts as JSON, the format of the conventions."""
    return json.dumps(
        [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in messages],
        ensure_ascii=False,
    )


def note_error(span: Span, error: MeshError) -> None:
    """Marks a span that ended with an error."""
    span.set_attribute(attributes.ERROR_TYPE, error.reason)
    # A caller that left is not an error of the mesh.
    if not isinstance(error, Cancelled | ReaderReplaced):
        span.set_status(Status(StatusCode.ERROR))
