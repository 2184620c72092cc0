"""A generation's spans and metrics."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint

from mlxmesh_generation.domain.adapter import Adapter
from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.outcome import Outcome
from mlxmesh_generation.domain.outcome import Status as Ended
from mlxmesh_generation.domain.request import (
    Chat,
    ChatTurn,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptInput,
    PromptText,
    PromptTokens,
)
from mlxmesh_generation.domain.routing import UNASSIGNED, Assignment, Price
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.telemetry import GenerationObserver, GenerationTelemetry
from mlxmesh_shared.errors import Cancelled, ContextTooLong, EngineLost, ReaderReplaced
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.telemetry.metrics import Telemetry
from mlxmesh_shared.telemetry.sdk import Recorder
from tests.fakes.otlp_collector import Received, values

PROMPT = PromptText("secret prompt")
VERSION = ModelVersion("pocket", 2, "d", 100, 100, 1)


def text_of(token_ids: Sequence[int]) -> str:
    return " ".join(f"<{each}>" for each in token_ids)


class Stand:
    """Generations of one process, begun within one call."""

    def __init__(self, *content_models: str) -> None:
        self.recorder = Recorder({"service.name": "generation"})
        self.outcomes: list[Outcome] = []
        self.telemetry = GenerationTelemetry(
            self.recorder.telemetry, content_models, self.outcomes.append
        )
        self.call = self.recorder.telemetry.tracer.start_span("call")
        self.received = Received()

    def begin(
        self,
        source: PromptInput = PROMPT,
        *,
        labels: tuple[tuple[str, str], ...] = (),
        assignment: Assignment = UNASSIGNED,
        adapter: Adapter | None = None,
    ) -> GenerationObserver:
        request = GenerationRequest("r-1", ModelReference("pocket"), source, labels=labels)
        received_s = time.monotonic() - 1
        plan = Plan(request, VERSION, (1, 2, 3), 9, 0, received_s, None, assignment=assignment)
        plan = replace(plan, adapter=adapter)
        token = attach(trace.set_span_in_context(self.call))
        try:
            return self.telemetry.begin(plan, text_of)
        finally:
            detach(token)

    async def collect(self) -> Received:
        self.call.end()
        await self.received.traces(self.recorder.drain_spans(100))
        await self.received.metrics(self.recorder.read_metrics())
        return self.received

    def points(self, name: str) -> list[HistogramDataPoint]:
        return list(self.received.metrics_by_service["generation"][name].histogram.data_points)


def finished(**more: Any) -> Finished:
    return Finished(
        FinishReason.STOP, prompt_tokens=3, cached_tokens=1, completion_tokens=2, **more
    )


async def test_a_generation_is_one_span_with_one_for_its_engine() -> None:
    stand = Stand()
    observer = stand.begin()
    output = observer.of_output()
    traceparent = output.start_attempt()
    output.placed("engine-1")
    observer.first_token()
    output.ended()
    observer.finished([finished()], [[7, 8]])
    received = await stand.collect()
    (call,), (span,), (execute,) = map(
        received.named, ("call", "text_completion pocket", "execute")
    )
    assert (span.parent_id, execute.parent_id) == (call.span_id, span.span_id)
    assert traceparent == f"00-{span.trace_id}-{execute.span_id}-03"
    assert execute.attributes == {"mlxmesh.engine.id": "engine-1"}
    assert span.attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "mlxmesh",
        "gen_ai.request.model": "pocket",
        "gen_ai.response.model": "pocket@2",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 1,
        "gen_ai.usage.output_tokens": 2,
        "mlxmesh.request_id": "r-1",
        "mlxmesh.model.version": 2,
        "mlxmesh.resumptions": 0,
    }
    assert call.attributes == {
        "mlxmesh.request_id": "r-1",
        "gen_ai.request.model": "pocket",
        "gen_ai.operation.name": "text_completion",
        "mlxmesh.model.version": 2,
    }
    assert (span.end_ns - span.start_ns) / 1e9 >= 1


async def test_spans_name_the_arm_of_a_split() -> None:
    stand = Stand()
    stand.begin(assignment=Assignment("canary", "ro-1", "ex-1", b"x")).finished([finished()], [[7]])
    received = await stand.collect()
    arm = {
        "mlxmesh.arm": "canary",
        "mlxmesh.rollout.id": "ro-1",
        "mlxmesh.experiment.id": "ex-1",
    }
    for name in ("call", "text_completion pocket"):
        (span,) = received.named(name)
        assert span.attributes.items() >= arm.items()


async def test_spans_name_the_adapter() -> None:
    stand = Stand()
    adapter = Adapter("french", "a" * 64, "/adapters/a")
    stand.begin(adapter=adapter).finished([finished()], [[7]])
    received = await stand.collect()
    for name in ("call", "text_completion pocket"):
        (span,) = received.named(name)
        assert span.attributes["mlxmesh.adapter"] == "french"


def test_each_end_is_recorded_once_unless_another_one_goes_on() -> None:
    stand = Stand()
    stand.begin().finished([finished()], [[7, 8]])
    stand.begin().failed(EngineLost("gone"), [[7]], 0)
    stand.begin().failed(Cancelled("by its caller"), [[7]], 0)
    stand.begin().failed(ContextTooLong("too long"), [[]], 0)
    stand.begin().failed(ReaderReplaced("another reader"), [[7]], 0)
    assert [(each.status, each.error_reason) for each in stand.outcomes] == [
        (Ended.COMPLETED, ""),
        (Ended.FAILED, "ENGINE_LOST"),
        (Ended.CANCELLED, "CANCELLED"),
        (Ended.REFUSED, "CONTEXT_TOO_LONG"),
    ]


async def test_the_conventions_metrics_are_measured() -> None:
    stand = Stand()
    observer = stand.begin()
    observer.first_token()
    observer.finished([finished()], [[7, 8]])
    await stand.collect()
    labels = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "mlxmesh",
        "gen_ai.request.model": "pocket",
        "mlxmesh.model.version": 2,
    }
    for name in ("request.duration", "time_to_first_token"):
        (point,) = stand.points(f"gen_ai.server.{name}")
        assert values(point.attributes) == labels
        assert point.sum >= 1
    (per_token,) = stand.points("gen_ai.server.time_per_output_token")
    assert per_token.count == 1
    usage = stand.points("gen_ai.client.token.usage")
    assert {values(each.attributes)["gen_ai.token.type"]: each.sum for each in usage} == {
        "input": 3,
        "output": 2,
    }


@pytest.mark.parametrize(
    ("error", "failed"),
    [(EngineLost("gone"), True), (ReaderReplaced("another reader"), False)],
)
async def test_a_failure_is_told_by_its_reason(error: Any, failed: bool) -> None:
    stand = Stand()
    observer = stand.begin()
    observer.failed(error, [[7]], 1)
    received = await stand.collect()
    (span,) = received.named("text_completion pocket")
    assert (span.failed, span.attributes["error.type"]) == (failed, error.reason)
    assert (span.attributes["mlxmesh.resumptions"], error.message in str(span)) == (1, False)
    (point,) = stand.points("gen_ai.server.request.duration")
    assert values(point.attributes)["error.type"] == error.reason
    assert "gen_ai.server.time_to_first_token" not in received.metrics_by_service["generation"]


async def test_each_engine_that_works_on_it_has_a_span_of_its_own() -> None:
    stand = Stand()
    observer = stand.begin()
    output = observer.of_output()
    for engine in ("engine-1", "engine-2"):
        output.start_attempt()  # which no engine takes
        output.start_attempt()
        output.placed(engine)
        if engine == "engine-1":
            output.engine_failed(EngineLost("gone"))
            output.resumed()
    output.ended()
    observer.finished([finished(resumptions=1)], [[7, 8]])
    received = await stand.collect()
    (span,) = received.named("text_completion pocket")
    told = [(one.attributes["mlxmesh.engine.id"], one.failed) for one in received.children(span)]
    assert told == [("engine-1", True), ("engine-2", False)]
    assert span.attributes["mlxmesh.resumptions"] == 1
    resumptions = received.metrics_by_service["generation"]["mlxmesh.generation.resumptions"]
    assert [point.as_int for point in resumptions.sum.data_points] == [1]


async def test_several_outputs_are_one_generation() -> None:
    stand = Stand()
    observer = stand.begin(labels=(("team", "x"),))
    outputs = [observer.of_output() for _ in range(2)]
    for output in outputs:
        output.start_attempt()
        output.placed("engine-1")
        observer.first_token()
        output.ended()
    ends = [finished(), Finished(FinishReason.LENGTH, 3, 3, 1, index=1, resumptions=2)]
    observer.finished(ends, [[7, 8], [9]])
    received = await stand.collect()
    (span,) = received.named("text_completion pocket")
    assert len(received.children(span)) == 2
    assert span.attributes["gen_ai.response.finish_reasons"] == ["stop", "length"]
    assert span.attributes["gen_ai.usage.output_tokens"] == 3
    assert span.attributes["gen_ai.usage.cache_read.input_tokens"] == 1
    assert span.attributes["mlxmesh.resumptions"] == 2
    assert span.attributes["mlxmesh.label.team"] == "x"
    usage = stand.points("gen_ai.client.token.usage")
    assert sorted(point.sum for point in usage) == [3, 3]
    assert len(stand.points("gen_ai.server.time_to_first_token")) == 1


async def test_those_that_run_are_counted() -> None:
    stand = Stand()
    first, second = stand.begin(), stand.begin()
    assert stand.telemetry.running == 2
    first.finished([finished()], [[7]])
    second.failed(EngineLost("gone"), [], 0)
    assert stand.telemetry.running == 0


SOURCES = [
    (PromptText("secret prompt"), [("user", "secret prompt")]),
    (PromptTokens((4, 5)), [("user", "<4> <5>")]),
    (
        Chat((ChatTurn("system", "secret rule"), ChatTurn("user", "secret question"))),
        [("system", "secret rule"), ("user", "secret question")],
    ),
]


@pytest.mark.parametrize(("source", "said"), SOURCES)
async def test_texts_are_told_of_named_models_only(
    source: PromptInput, said: list[tuple[str, str]]
) -> None:
    told, silent = Stand("other", "pocket"), Stand("other")
    for stand in (told, silent):
        stand.begin(source).finished([finished()], [[7, 8]])
        await stand.collect()
    (span,) = [one for one in told.received.spans if one.name.endswith("pocket")]
    for role, content in said:
        assert (
            f'{{"role": "{role}", "parts": [{{"type": "text", "content": "{content}"}}]}}'
            in (span.attributes["gen_ai.input.messages"])
        )
    assert '"<7> <8>"' in span.attributes["gen_ai.output.messages"]
    everything = b"".join(silent.received.raw)
    assert b"secret" not in everything
    assert b"<7>" not in everything


async def test_a_repetition_says_so_in_its_span_and_counts_in_no_metric() -> None:
    stand = Stand()
    recorded: list[Outcome] = []
    ended: list[tuple[Outcome, Sequence[int]]] = []
    repetitions = GenerationTelemetry(
        Telemetry(stand.recorder.telemetry.tracer), record=recorded.append
    )
    request = GenerationRequest("s-1:r-1", ModelReference("pocket", 2), PROMPT)
    plan = Plan(request, VERSION, (1, 2, 3), 9, 0, time.monotonic() - 1, None, shadow_id="s-1")
    observer = repetitions.begin(
        plan, text_of, lambda _plan, outcome, tokens, _decode: ended.append((outcome, tokens))
    )
    observer.first_token()
    observer.finished([finished()], [[7, 8]])
    received = await stand.collect()
    (span,) = received.named("text_completion pocket")
    assert span.attributes["mlxmesh.shadow.id"] == "s-1"
    assert "secret" not in str(span.attributes)
    assert (
        received.metrics_by_service.get("generation", {})
        .keys()
        .isdisjoint({"gen_ai.server.request.duration", "gen_ai.client.token.usage"})
    )
    [(outcome, tokens)] = ended
    assert (outcome.request_id, tokens, recorded) == ("s-1:r-1", [7, 8], [outcome])


async def test_every_end_is_told_with_the_tokens_of_the_first_output() -> None:
    ended: list[tuple[str, Sequence[int]]] = []

    def on_ended(plan: Plan, outcome: Outcome, tokens: Sequence[int], decode: Any) -> None:
        ended.append((outcome.status.value, tokens))

    telemetry = GenerationTelemetry(on_ended=on_ended)
    request = GenerationRequest("r-1", ModelReference("pocket"), PROMPT)
    plan = Plan(request, VERSION, (1, 2, 3), 9, 0, time.monotonic(), None)
    telemetry.begin(plan, text_of).finished([finished(), finished()], [[7], [8]])
    telemetry.begin(plan, text_of).failed(EngineLost("x"), [[9]], 0)
    telemetry.begin(plan, text_of).failed(Cancelled("x"), [], 0)
    assert ended == [("completed", [7]), ("failed", [9]), ("cancelled", ())]


async def test_an_answer_that_is_only_continued_here_has_no_times() -> None:
    recorded: list[Outcome] = []
    telemetry = GenerationTelemetry(record=recorded.append)
    request = GenerationRequest("r-1", ModelReference("pocket"), PROMPT)
    for resumed in (False, True):
        received_s = time.monotonic() - 1
        plan = Plan(request, VERSION, (1, 2, 3), 9, 0, received_s, None, resumed=resumed)
        observer = telemetry.begin(plan, text_of)
        observer.first_token()
        observer.finished([finished()], [[7, 8]])
    whole, continued = recorded
    assert whole.ttft_ms is not None
    assert (continued.ttft_ms, continued.tpot_ms) == (None, None)


async def test_the_flex_tier_has_no_times_that_say_something_of_its_version() -> None:
    recorded: list[Outcome] = []
    telemetry = GenerationTelemetry(record=recorded.append)
    request = GenerationRequest("r-1", ModelReference("pocket"), PROMPT, flex=True)
    plan = Plan(request, VERSION, (1, 2, 3), 9, 0, time.monotonic(), None)
    observer = telemetry.begin(plan, text_of)
    observer.first_token()
    observer.finished([finished()], [[7, 8]])
    (outcome,) = recorded
    assert (outcome.ttft_ms, outcome.tpot_ms) == (None, None)
    assert outcome.completion_tokens


async def test_what_no_engine_answered_costs_nothing() -> None:
    recorded: list[Outcome] = []
    telemetry = GenerationTelemetry(record=recorded.append)
    request = GenerationRequest("r-1", ModelReference("pocket"), PROMPT)
    price = Price(per_million_prompt_tokens=1e6, per_million_completion_tokens=1e6)
    plan = Plan(request, VERSION, (1, 2, 3), 9, 0, time.monotonic(), None, price=price)
    for tokens in ([[]], [[7, 8]]):
        telemetry.begin(plan, text_of).failed(EngineLost("x"), tokens, 0)
    assert [outcome.cost for outcome in recorded] == [0, 5]
