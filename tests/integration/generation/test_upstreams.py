"""Generations that an OpenAI-compatible server runs, over real gRPC and real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    FINISH_REASON_CANCELLED,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_TOOL_CALLS,
    REASONING_EFFORT_LOW,
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_TOOL,
    ROLE_USER,
    SERVICE_TIER_FLEX,
    TOOL_MODE_REQUIRED,
    AttachGenerationRequest,
    CancelGenerationRequest,
    ChatInput,
    ChatMessage,
    Choices,
    CompleteRequest,
    CompleteResponse,
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
    GetOutputFormatRequest,
    JsonObject,
    Logprobs,
    Reasoning,
    ReceivedOutput,
    ResumeGenerationRequest,
    TokenInput,
    Tool,
    ToolCall,
    ToolChoice,
)
from mlxmesh.model.v1 import upstream_pb2 as up
from mlxmesh.model.v1.ensemble_pb2 import EnsembleRecipe, FallbackRecipe
from mlxmesh.model.v1.history_pb2 import OUTCOME_STATUS_COMPLETED, OUTCOME_STATUS_FAILED
from mlxmesh.model.v1.model_pb2 import (
    VERSION_STATE_FAILED,
    VERSION_STATE_READY,
    Model,
    ModelVersion,
)
from mlxmesh.model.v1.policy_pb2 import ModelPolicy, Price
from mlxmesh.model.v1.split_pb2 import SPLIT_SUBJECT_PRINCIPAL, Split, SplitArm
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    FeatureNotSupported,
    GenerationExists,
    InvalidArgument,
    MeshError,
    ModelNotLoaded,
    QueueFull,
    StreamLost,
    TooManyRequests,
    UpstreamFiltered,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mlxmesh_shared.rpc.caller import OWNER_METADATA
from mlxmesh_shared.rpc.error_status import to_failure
from tests.fakes.openai_upstream import MODEL, FakeUpstream, Script, running_upstream
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, pocket, running_mesh

KEY = "sk-of-the-upstream"
USER = [ChatMessage(role=ROLE_USER, content="hi")]
HI = ChatInput(messages=USER)
ALL = [number for number in up.UpstreamCapability.values() if number]
PRICE = Price(per_million_prompt_tokens=1e6, per_million_completion_tokens=2e6)


def far_model(fake: FakeUpstream, **fields: Any) -> Model:
    version: dict[str, Any] = {"version": 1, "state": VERSION_STATE_READY, "desired_replicas": 1}
    version |= fields.pop("version", {})
    upstream: dict[str, Any] = {
        "base_url": fake.url,
        "model_id": MODEL,
        "key": "env:GENERATION_FAR_KEY",
        "capabilities": ALL,
        "max_concurrent": 32,
    }
    return Model(
        name="far",
        versions=[ModelVersion(**version, upstream=up.Upstream(**{**upstream, **fields}))],
        default_version=1,
        aliases={"live": 1},
        policy=ModelPolicy(price=PRICE),
    )


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeUpstream]:
    monkeypatch.setenv("GENERATION_FAR_KEY", KEY)
    async with running_upstream(KEY) as running:
        yield running


@pytest.fixture
async def mesh(tmp_path: Path, tokenizer_dir: Path, fake: FakeUpstream) -> AsyncIterator[Mesh]:
    async with running_mesh(tmp_path, tokenizer_dir) as running:
        running.models.put(far_model(fake))
        yield running


def asked(**fields: Any) -> GenerateRequest:
    source = {} if {"prompt", "tokens"} & fields.keys() else {"chat": HI}
    return GenerateRequest(**{"model": "far", **source, **fields})


async def complete(mesh: Mesh, **fields: Any) -> CompleteResponse:
    return await mesh.stub.Complete(CompleteRequest(generation=asked(**fields)))


# What comes back.


async def test_a_stream_of_an_upstream_is_like_any_other(mesh: Mesh, fake: FakeUpstream) -> None:
    first, *middle, last = await mesh.collect(asked(model="far:live"))
    assert [each.sequence for each in (first, *middle, last)] == list(range(1, len(middle) + 3))
    assert (first.started.model, first.started.model_version) == ("far", 1)
    assert first.started.engine_id == "upstream"
    assert "".join(each.delta.text for each in middle) == "Hello there"
    assert last.finished.finish_reason == FINISH_REASON_STOP
    assert (last.finished.usage.prompt_tokens, last.finished.usage.completion_tokens) == (7, 3)
    assert last.finished.total_usage.completion_tokens == 3
    assert last.finished.cost == 7 * 1 + 3 * 2
    assert fake.authorizations == [f"Bearer {KEY}"]


async def test_reasoning_and_calls_are_told_apart(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(
        pieces=["Let me see."],
        reasoning=["I ", "think"],
        calls=[
            {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"city"'}},
            {"index": 0, "function": {"arguments": ': "Rome"}'}},
            {"index": 1, "function": {"name": "time", "arguments": "{}"}},
        ],
        finish_reason="tool_calls",
    )
    answer = await complete(mesh)
    assert (answer.reasoning_text, answer.text) == ("I think", "Let me see.")
    first, second = answer.tool_calls
    assert (first.id, first.name, first.arguments) == ("c1", "weather", '{"city": "Rome"}')
    assert (second.name, second.arguments) == ("time", "{}")
    assert second.id
    assert answer.finished.finish_reason == FINISH_REASON_TOOL_CALLS


async def test_usage_has_its_details(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(
        finish_reason="length",
        usage={
            "prompt_tokens": 10,
            "completion_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    )
    finished = (await complete(mesh)).finished
    assert finished.finish_reason == FINISH_REASON_LENGTH
    assert (finished.usage.cached_tokens, finished.usage.reasoning_tokens) == (4, 5)
    assert finished.total_usage.completion_tokens == 8


async def test_without_usage_each_piece_counts_as_a_token(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(usage=None)
    finished = (await complete(mesh)).finished
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (0, 3)


async def test_several_outputs(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(usage={"prompt_tokens": 7, "completion_tokens": 11})
    answer = await complete(mesh, n=3)
    assert fake.requests[0]["n"] == 3
    assert [answer.text, *(each.text for each in answer.other_outputs)] == ["Hello there"] * 3
    counts = [each.finished.usage.completion_tokens for each in answer.other_outputs]
    assert answer.finished.usage.completion_tokens + sum(counts) == 11


async def test_one_that_does_not_stream(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(streams=False)
    answer = await complete(mesh)
    assert (answer.text, answer.finished.usage.prompt_tokens) == ("Hello there", 7)


async def test_a_long_piece_is_several_messages(mesh: Mesh, fake: FakeUpstream) -> None:
    text = "x" * 2_000_000
    fake.script = Script(pieces=[text], streams=False)
    responses = await mesh.collect(asked())
    assert "".join(each.delta.text for each in responses) == text
    assert max(each.ByteSize() for each in responses) < 300_000


async def test_half_of_a_surrogate_pair_is_replaced(mesh: Mesh, fake: FakeUpstream) -> None:
    half = b'{"choices": [{"delta": {"content": "a \\ud83d \xc3\xa9"}, "finish_reason": "stop"}]}'
    fake.script = Script(raw=b"data: " + half + b"\n\ndata: [DONE]\n\n")
    assert (await complete(mesh)).text == "a ? é"


async def test_log_probabilities_have_text(mesh: Mesh, fake: FakeUpstream) -> None:
    answer = await complete(mesh, logprobs=Logprobs(top=2))
    assert (fake.requests[0]["logprobs"], fake.requests[0]["top_logprobs"]) == (True, 2)
    assert [each.bytes for each in answer.logprobs] == [b"Hel", b"lo", b" there"]
    assert answer.logprobs[0].logprob == pytest.approx(-0.5)
    assert [each.bytes for each in answer.logprobs[0].top] == [b"Hel", b"x"]


# What is asked.


async def test_what_the_upstream_is_asked(mesh: Mesh, fake: FakeUpstream) -> None:
    tool = Tool(
        name="f",
        description="does it",
        parameters_json_schema='{"type": "object", "properties": {"a": {}}}',
        strict=True,
    )
    past = ToolCall(id="c1", name="f", arguments='{"a": 1}')
    await complete(
        mesh,
        chat=ChatInput(
            messages=[
                ChatMessage(role=ROLE_SYSTEM, content="be brief"),
                *USER,
                ChatMessage(role=ROLE_ASSISTANT, tool_calls=[past], reasoning_text="hm"),
                ChatMessage(role=ROLE_TOOL, tool_call_id="c1", content="2"),
            ]
        ),
        tools=[tool],
        tool_choice=ToolChoice(mode=TOOL_MODE_REQUIRED, name="f"),
        parallel_tool_calls=False,
        sampling=Sampling(
            temperature=0.7, top_p=0.9, seed=5, presence_penalty=0.5, top_k=3, min_p=0.1
        ),
        max_tokens=9,
        stop=["\n", "END"],
        reasoning=Reasoning(effort=REASONING_EFFORT_LOW),
    )
    [body] = fake.requests
    assert body == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a": 1}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "does it",
                    "parameters": {"type": "object", "properties": {"a": {}}},
                    "strict": True,
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "seed": 5,
        "max_completion_tokens": 9,
        "stop": ["\n", "END"],
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_raw_text_is_a_completion(mesh: Mesh, fake: FakeUpstream) -> None:
    assert (await complete(mesh, prompt="Once")).text == "Hello there"
    assert fake.paths == ["/v1/completions"]
    assert fake.requests[0]["prompt"] == "Once"
    assert fake.requests[0]["temperature"] == 0


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"json_object": JsonObject()}, {"type": "json_object"}),
        (
            {"json_schema": '{"type": "integer"}'},
            {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "integer"}, "strict": True},
            },
        ),
    ],
)
async def test_the_shape_of_an_answer(
    mesh: Mesh, fake: FakeUpstream, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    await complete(mesh, **fields)
    assert fake.requests[0]["response_format"] == sent


ALWAYS_REFUSED = [
    ({"tokens": TokenInput(token_ids=[1])}, "tokens"),
    ({"regex": "a+"}, "regex"),
    ({"grammar": 'start: "a"'}, "grammar"),
    ({"choice": Choices(texts=["a"])}, "choice"),
    ({"stop_token_ids": [1]}, "stop_token_ids"),
    ({"ignore_eos": True}, "ignore_eos"),
    ({"sampling": Sampling(logit_bias={1: 1.0})}, "sampling.logit_bias"),
    ({"logprobs": Logprobs(prompt=True)}, "logprobs.prompt"),
    ({"prompt": "x", "logprobs": Logprobs()}, "logprobs"),
    ({"prompt": "x", "json_object": JsonObject()}, "json_object"),
    ({"reasoning": Reasoning(enabled=True)}, "reasoning.enabled"),
    ({"reasoning": Reasoning(budget_tokens=5)}, "reasoning.budget_tokens"),
    (
        {"chat": ChatInput(messages=USER, add_generation_prompt=False)},
        "chat.add_generation_prompt",
    ),
]
REFUSED_WITHOUT = [
    ({"adapter": "french"}, "adapter"),
    ({}, "chat"),
    ({"prompt": "x"}, "prompt"),
    ({"tools": [Tool(name="f")]}, "tools"),
    ({"json_object": JsonObject()}, "json_object"),
    ({"logprobs": Logprobs()}, "logprobs"),
    ({"sampling": Sampling(top_k=3)}, "sampling.top_k"),
    ({"sampling": Sampling(min_p=0.5)}, "sampling.min_p"),
    ({"sampling": Sampling(repetition_penalty=1.5)}, "sampling.repetition_penalty"),
    ({"reasoning": Reasoning(effort=REASONING_EFFORT_LOW)}, "reasoning.effort"),
]


@pytest.mark.parametrize(("fields", "field"), ALWAYS_REFUSED, ids=lambda each: str(each)[:30])
async def test_what_no_upstream_takes_is_refused_by_name(
    mesh: Mesh, fake: FakeUpstream, fields: dict[str, Any], field: str
) -> None:
    await refused(mesh, fake, fields, field)


@pytest.mark.parametrize(("fields", "field"), REFUSED_WITHOUT, ids=lambda each: str(each)[:30])
async def test_what_this_upstream_does_not_take_is_refused_by_name(
    mesh: Mesh, fake: FakeUpstream, fields: dict[str, Any], field: str
) -> None:
    only = up.UPSTREAM_CAPABILITY_EMBEDDING if field == "chat" else up.UPSTREAM_CAPABILITY_CHAT
    mesh.models.put(far_model(fake, capabilities=[only]))
    await known(mesh)
    await refused(mesh, fake, fields, field)


async def refused(mesh: Mesh, fake: FakeUpstream, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(FeatureNotSupported) as caught:
        await complete(mesh, **fields)
    assert caught.value.field == field
    said = (
        "the upstream of far@1 does not take it",
        "far@1 is an upstream, which takes no adapters",
    )
    assert any(each in caught.value.message for each in said)
    assert not fake.requests


async def known(mesh: Mesh) -> None:
    """Returns once generation has seen what was put last."""
    marker = f"marker-{len(mesh.models.watches)}"
    mesh.models.put(Model(name=marker))
    while True:
        try:
            await mesh.stub.Complete(CompleteRequest(generation=asked(model=marker)))
        except MeshError as error:
            if "no model" not in error.message:
                return
        await asyncio.sleep(0.005)


async def test_what_needs_a_tokenizer_is_refused(mesh: Mesh) -> None:
    with pytest.raises(FeatureNotSupported, match="far@1"):
        await mesh.stub.CountTokens(CountTokensRequest(model="far", prompt="x"))
    with pytest.raises(FeatureNotSupported, match="far@1"):
        await mesh.stub.GetOutputFormat(GetOutputFormatRequest(model="far"))


# Failures.


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (Script(status=400), InvalidArgument),
        (Script(status=404), UpstreamRefused),
        (Script(status=500), UpstreamUnavailable),
        (Script(raw=b"data: nonsense\n\n"), UpstreamUnavailable),
        (Script(raw=b'data: {"choices": [{"index": 7}]}\n\ndata: [DONE]\n\n'), UpstreamUnavailable),
        (Script(raw=b'data: {"choices": []}\n\ndata: [DONE]\n\n'), UpstreamUnavailable),
        (Script(cuts_before=3), UpstreamUnavailable),
        (Script(error_before=3), UpstreamUnavailable),
        (Script(finish_reason="content_filter"), UpstreamFiltered),
    ],
)
async def test_each_failure_has_its_error_and_no_key(
    mesh: Mesh, fake: FakeUpstream, script: Script, kind: type[MeshError]
) -> None:
    fake.script = script
    with pytest.raises(kind) as caught:
        await mesh.collect(asked())
    assert type(caught.value) is kind
    assert KEY not in caught.value.message
    fake.script = Script()
    assert (await complete(mesh)).text == "Hello there"


async def test_a_cut_comes_after_what_was_said(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(cuts_before=3)
    texts: list[str] = []

    async def read() -> None:
        async for response in mesh.stub.Generate(asked()):
            texts.append(response.delta.text)

    with pytest.raises(UpstreamUnavailable):
        await read()
    assert "".join(texts) == "Hello"
    assert len(fake.requests) == 1
    await until(lambda: bool(mesh.models.history.outcomes))
    [outcome] = mesh.models.history.outcomes
    assert (outcome.status, outcome.completion_tokens) == (OUTCOME_STATUS_FAILED, 2)


async def test_a_full_upstream_says_when_to_come_back(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(status=429, headers={"Retry-After": "9"})
    with pytest.raises(TooManyRequests) as caught:
        await complete(mesh)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.retry_delay_s == 9


async def test_a_broken_upstream_is_given_a_pause(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(status=503)

    async def ask_until_paused() -> None:
        before = -1
        while len(fake.requests) > before:
            before = len(fake.requests)
            with suppress(UpstreamUnavailable):
                await complete(mesh)

    await ask_until_paused()
    with pytest.raises(UpstreamUnavailable, match="given a pause") as caught:
        await complete(mesh)
    assert caught.value.retry_delay_s is not None
    fake.script = Script()
    async with asyncio.timeout(30):
        while True:
            try:
                await complete(mesh)
                break
            except UpstreamUnavailable:
                await asyncio.sleep(0.05)


async def test_more_requests_wait_and_too_many_are_refused(mesh: Mesh, fake: FakeUpstream) -> None:
    mesh.models.put(far_model(fake, max_concurrent=2))
    await known(mesh)
    fake.script = Script(hangs_before=1)
    running = [asyncio.create_task(complete(mesh)) for _ in range(10)]
    await until(lambda: fake.open == 2)

    async def ask_until_refused() -> None:
        while True:
            running.append(asyncio.create_task(complete(mesh)))
            await asyncio.wait(running, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            [each.result() for each in running if each.done()]

    with pytest.raises(QueueFull) as caught:
        await ask_until_refused()
    assert caught.value.retry_delay_s
    assert fake.most_open == 2
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    fake.script = Script()
    await complete(mesh)


async def test_the_flex_tier_leaves_places_and_its_queue_is_its_own(
    mesh: Mesh, fake: FakeUpstream
) -> None:
    mesh.models.put(far_model(fake, max_concurrent=4))
    await known(mesh)
    fake.script = Script(hangs_before=1)
    flex = [asyncio.create_task(complete(mesh, service_tier=SERVICE_TIER_FLEX)) for _ in range(9)]
    await until(lambda: fake.open == 3)
    fake.script = Script()
    assert (await complete(mesh)).text == "Hello there"
    await until(lambda: fake.open == 3)
    assert fake.most_open == 4
    for each in flex:
        each.cancel()
    await asyncio.gather(*flex, return_exceptions=True)
    answer = await complete(mesh, service_tier=SERVICE_TIER_FLEX)
    assert answer.finished.cost == (7 * 1 + 3 * 2) / 2


async def test_a_deadline_ends_it(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(hangs_before=2)
    with pytest.raises(DeadlineExceeded):
        await mesh.collect(asked(), timeout=0.3)
    await until(lambda: fake.closed_early == 1)


async def test_a_reader_that_leaves_closes_the_connection(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(hangs_before=3)
    call = mesh.stub.Generate(asked())
    async for response in call:
        if response.delta.text:
            break
    call.cancel()
    await until(lambda: fake.closed_early == 1 and fake.open == 0)


async def test_cancelling_ends_it_with_what_there_is(mesh: Mesh, fake: FakeUpstream) -> None:
    fake.script = Script(hangs_before=3)
    call = mesh.stub.Generate(asked(request_id="mine"))
    responses: list[GenerateResponse] = []
    async for response in call:
        responses.append(response)
        if response.delta.text:
            await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="mine"))
    assert responses[-1].finished.finish_reason == FINISH_REASON_CANCELLED
    assert responses[-1].finished.HasField("total_usage")
    await until(lambda: fake.closed_early == 1)


async def test_what_is_switched_off_or_not_healthy_is_not_asked(
    mesh: Mesh, fake: FakeUpstream
) -> None:
    mesh.models.put(far_model(fake, version={"desired_replicas": 0}))
    await known(mesh)
    with pytest.raises(ModelNotLoaded, match="mlxmesh load far@1"):
        await complete(mesh)
    failure = to_failure(UpstreamRefused("the upstream of far@1 refused its key"))
    mesh.models.put(far_model(fake, version={"state": VERSION_STATE_FAILED, "failure": failure}))
    await known(mesh)
    with pytest.raises(UpstreamRefused, match="refused its key"):
        await complete(mesh)
    assert not fake.requests


async def test_a_missing_key_is_told_by_its_place(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENERATION_FAR_KEY")
    with pytest.raises(MeshError, match="GENERATION_FAR_KEY") as caught:
        await complete(mesh)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION


# Retention and resumption.


async def test_a_request_id_is_answered_once(mesh: Mesh, fake: FakeUpstream) -> None:
    first = await mesh.collect(asked(request_id="mine"))
    again = await mesh.collect(asked(request_id="mine"))
    assert again == first
    assert len(fake.requests) == 1
    with pytest.raises(GenerationExists):
        await mesh.collect(asked(request_id="mine", max_tokens=4))
    attach = AttachGenerationRequest(request_id="mine", after_sequence=2)
    attached = [each.message async for each in mesh.stub.AttachGeneration(attach)]
    assert attached == first[2:]


async def test_a_lost_stream_begins_again_if_nothing_was_sent(
    mesh: Mesh, fake: FakeUpstream
) -> None:
    started = (await mesh.collect(asked()))[0].started
    resume = ResumeGenerationRequest(
        generation=asked(model="far@1", sampling=Sampling(seed=started.seed)),
        after_sequence=1,
        started=started,
    )
    messages = [each.message async for each in mesh.stub.ResumeGeneration(resume)]
    assert messages[0].sequence == 2
    assert "".join(each.delta.text for each in messages) == "Hello there"
    assert messages[-1].finished.finish_reason == FINISH_REASON_STOP
    assert "seed" not in fake.requests[-1]


async def test_a_lost_stream_ends_if_output_was_sent(mesh: Mesh, fake: FakeUpstream) -> None:
    resume = ResumeGenerationRequest(
        generation=asked(),
        after_sequence=2,
        outputs=[ReceivedOutput(index=0, text_characters=5)],
    )
    with pytest.raises(StreamLost, match="after 5 characters") as caught:
        async for _ in mesh.stub.ResumeGeneration(resume):
            pass
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert not fake.requests


# With the rest of the mesh.


async def test_outcomes_are_reported(mesh: Mesh) -> None:
    await complete(mesh)
    await until(lambda: bool(mesh.models.history.outcomes))
    [outcome] = mesh.models.history.outcomes
    assert outcome.status == OUTCOME_STATUS_COMPLETED
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (7, 3)
    assert outcome.cost == 13


def fallback(*models: str) -> Model:
    recipe = EnsembleRecipe(fallback=FallbackRecipe(models=models))
    return Model(name="either", ensemble=recipe)


async def test_an_ensemble_falls_back_from_a_local_model_to_an_upstream(
    mesh: Mesh, fake: FakeUpstream
) -> None:
    mesh.models.put(pocket(desired=0, on_demand=False))
    await mesh.registry.deregister(mesh.engine.instance)
    mesh.models.put(fallback("pocket", "far"))
    await known(mesh)
    answer = await complete(mesh, model="either", prompt="x")
    assert (answer.text, answer.started.model, answer.started.ensemble) == (
        "Hello there",
        "far",
        "either",
    )
    assert [(each.model, each.chosen) for each in answer.finished.steps] == [
        ("pocket", False),
        ("far", True),
    ]
    assert answer.finished.total_usage.prompt_tokens == 7
    assert answer.finished.cost == 13


@pytest.mark.parametrize(
    "break_it",
    [lambda: Script(status=503), lambda: Script(status=429), lambda: Script(cuts_before=0)],
)
async def test_an_ensemble_falls_back_from_an_upstream_to_a_local_model(
    mesh: Mesh, fake: FakeUpstream, break_it: Callable[[], Script]
) -> None:
    fake.script = break_it()
    mesh.models.put(fallback("far", "pocket"))
    await known(mesh)
    answer = await complete(mesh, model="either", prompt="x", max_tokens=3)
    assert answer.started.model == "pocket"


async def test_an_ensemble_leaves_to_others_what_its_upstream_does_not_take(
    mesh: Mesh, fake: FakeUpstream
) -> None:
    mesh.models.put(fallback("far", "pocket"))
    await known(mesh)
    answer = await complete(mesh, model="either", prompt="x", max_tokens=3, ignore_eos=True)
    assert answer.started.model == "pocket"
    assert not fake.requests


async def test_an_alias_is_split_between_a_local_version_and_an_upstream(
    mesh: Mesh, fake: FakeUpstream
) -> None:
    model, upstream = pocket(), far_model(fake).versions[0]
    upstream.version = 2
    model.versions.append(upstream)
    arms = [SplitArm(arm=arm, version=of, weight=50) for arm, of in (("here", 1), ("far", 2))]
    split = Split(rollout_id="r", subject=SPLIT_SUBJECT_PRINCIPAL, salt="s", arms=arms)
    model.splits["stable"].CopyFrom(split)
    mesh.models.put(model)
    await known(mesh)
    seen: dict[str, set[tuple[str, int, bool]]] = {}
    for principal in ("ada", "bob", "cy", "dan", "eve", "fay", "guy", "hal") * 2:
        call = mesh.stub.Complete(
            CompleteRequest(generation=asked(model="pocket:stable", prompt="x", max_tokens=3)),
            metadata=((OWNER_METADATA, principal),),
        )
        started = (answer := await call).started
        told = (started.arm, started.model_version, answer.text == "Hello there")
        seen.setdefault(principal, set()).add(told)
    arms_of = [next(iter(each)) for each in seen.values() if len(each) == 1]
    assert len(arms_of) == len(seen)
    assert set(arms_of) == {("here", 1, False), ("far", 2, True)}
    await until(lambda: len(mesh.models.history.outcomes) == 2 * len(seen))
    of_far = [each for each in mesh.models.history.outcomes if each.arm == "far"]
    assert {(each.version, each.completion_tokens) for each in of_far} == {(2, 3)}


async def test_several_upstreams_are_independent(mesh: Mesh, fake: FakeUpstream) -> None:
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(running_upstream(KEY))
        other.script = Script(pieces=["other"])
        model = far_model(fake)
        second = ModelVersion()
        second.CopyFrom(model.versions[0])
        second.version, second.upstream.base_url = 2, other.url
        model.versions.append(second)
        mesh.models.put(model)
        await known(mesh)
        assert (await complete(mesh, model="far@2")).text == "other"
        assert (await complete(mesh, model="far@1")).text == "Hello there"
