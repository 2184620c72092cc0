"""What callers get over real gRPC, with an engine that says what the test wants."""

import asyncio
from pathlib import Path

import pytest
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    CancelGenerationRequest,
    ChatInput,
    ChatMessage,
    CompleteRequest,
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
    TokenInput,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import (
    AdapterNotFound,
    ContextTooLong,
    DeadlineExceeded,
    GenerationExists,
    GenerationNotFound,
    InvalidArgument,
    ModelNotFound,
)
from tests.fakes.engine import FakeEngineOptions
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, pocket, running_mesh

CHAT = ChatInput(messages=[ChatMessage(role=generation_pb2.ROLE_USER, content="Hi")])
TEXT = "Zürich 👩‍👩‍👧 日本語 done. "


def text_of(responses: list[GenerateResponse]) -> str:
    return "".join(response.delta.text for response in responses)


def tokens_of(responses: list[GenerateResponse]) -> list[int]:
    return [token for response in responses for token in response.delta.token_ids]


async def test_a_stream_from_started_to_finished(mesh: Mesh, tokenizer: ModelTokenizer) -> None:
    token_ids = tokenizer.encode_rendered(TEXT)
    mesh.script(token_ids)
    request = GenerateRequest(
        model="pocket", prompt="hello", max_tokens=len(token_ids), request_id="mine"
    )
    responses = await mesh.collect(request)
    assert [response.sequence for response in responses] == [*range(1, len(responses) + 1)]
    started, finished = responses[0].started, responses[-1].finished
    assert (started.request_id, started.model, started.model_version) == ("mine", "pocket", 1)
    assert started.engine_id == "engine-1"
    assert started.prompt_tokens == len(tokenizer.encode_prompt("hello"))
    assert text_of(responses) == TEXT
    assert tokens_of(responses) == token_ids
    assert not any("\ufffd" in response.delta.text for response in responses)
    assert finished.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert finished.usage.completion_tokens == len(token_ids)
    assert finished.timings.queue_ms > 0


async def test_complete_is_the_stream_in_one_message(mesh: Mesh, tokenizer: ModelTokenizer) -> None:
    token_ids = tokenizer.encode_rendered(TEXT)
    mesh.script(token_ids)
    request = GenerateRequest(model="pocket", chat=CHAT, max_tokens=len(token_ids))
    response = await mesh.stub.Complete(CompleteRequest(generation=request))
    assert (response.text, list(response.token_ids)) == (TEXT, token_ids)
    assert response.started.engine_id == "engine-1"
    assert response.finished.usage.completion_tokens == len(token_ids)


async def test_each_kind_of_input_reaches_the_engine_as_its_tokens(
    mesh: Mesh, tokenizer: ModelTokenizer
) -> None:
    inputs = [
        GenerateRequest(prompt="hello"),
        GenerateRequest(chat=CHAT),
        GenerateRequest(tokens=TokenInput(token_ids=[7, 8, 9])),
    ]
    for request in inputs:
        request.model, request.max_tokens = "pocket:stable", 1
        await mesh.collect(request)
    rendered = "<|user|>Hi</s><|assistant|>"
    assert [list(submit.prompt_token_ids) for submit in mesh.engine.submits] == [
        tokenizer.encode_prompt("hello"),
        tokenizer.encode_rendered(rendered),
        [7, 8, 9],
    ]


async def test_the_seed_is_the_callers_or_a_new_one_and_always_reported(mesh: Mesh) -> None:
    fixed = GenerateRequest(
        model="pocket", prompt="x", max_tokens=1, sampling=Sampling(seed=0, temperature=1)
    )
    free = GenerateRequest(model="pocket", prompt="x", max_tokens=1)
    seeds = [(await mesh.collect(request))[0].started.seed for request in (fixed, free, free)]
    assert seeds[0] == 0
    assert len(set(seeds)) == 3
    assert [submit.sampling.seed for submit in mesh.engine.submits] == seeds


async def test_a_stop_text_over_several_tokens(mesh: Mesh, tokenizer: ModelTokenizer) -> None:
    mesh.script(tokenizer.encode_rendered("one STOP two "))
    responses = await mesh.collect(
        GenerateRequest(model="pocket", prompt="x", stop=["STOP"], max_tokens=500)
    )
    finished = responses[-1].finished
    assert text_of(responses) == "one "
    assert (finished.finish_reason, finished.stop_text) == (
        generation_pb2.FINISH_REASON_STOP,
        "STOP",
    )
    assert finished.usage.completion_tokens == len(tokens_of(responses))
    await until(lambda: mesh.engine.sequences == 0)


async def test_a_stop_token(mesh: Mesh, tokenizer: ModelTokenizer) -> None:
    token_ids = tokenizer.encode_rendered("ab.")
    mesh.script(token_ids)
    request = GenerateRequest(model="pocket", prompt="x", stop_token_ids=[token_ids[-1]])
    responses = await mesh.collect(request)
    assert text_of(responses) == "ab"
    assert responses[-1].finished.stop_token_id == token_ids[-1]


@pytest.mark.parametrize(
    ("request_", "error", "field"),
    [
        (GenerateRequest(model="none", prompt="x"), ModelNotFound, "model"),
        (GenerateRequest(model="pocket@9", prompt="x"), ModelNotFound, "model"),
        (GenerateRequest(model="../pocket", prompt="x"), InvalidArgument, "model"),
        (GenerateRequest(model="pocket"), InvalidArgument, "input"),
        (
            GenerateRequest(model="pocket", prompt="x", adapter="s"),
            AdapterNotFound,
            "adapter",
        ),
        (GenerateRequest(model="pocket", prompt="word " * 9000), ContextTooLong, "prompt"),
        (
            GenerateRequest(model="pocket", prompt="x", max_tokens=2000),
            ContextTooLong,
            "max_tokens",
        ),
        (
            GenerateRequest(model="pocket", tokens=TokenInput(token_ids=[1, 500])),
            InvalidArgument,
            "tokens.token_ids[1]",
        ),
        (
            GenerateRequest(model="pocket", prompt="x", sampling=Sampling(logit_bias={900: 1.0})),
            InvalidArgument,
            "sampling.logit_bias[900]",
        ),
        (
            GenerateRequest(model="pocket", prompt="x", sampling=Sampling(top_p=float("nan"))),
            InvalidArgument,
            "sampling.top_p",
        ),
        (
            GenerateRequest(
                model="pocket",
                chat=ChatInput(
                    messages=[ChatMessage(role=generation_pb2.ROLE_TOOL, content="canary")]
                ),
            ),
            InvalidArgument,
            "chat",
        ),
    ],
)
async def test_a_bad_request_names_its_field_and_reaches_no_engine(
    mesh: Mesh, request_: GenerateRequest, error: type[InvalidArgument], field: str
) -> None:
    with pytest.raises(error) as caught:
        await mesh.collect(request_)
    assert caught.value.field == field
    assert "canary" not in str(caught.value)
    assert mesh.engine.submits == []


async def test_a_request_id_stands_for_one_request(mesh: Mesh) -> None:
    request = GenerateRequest(model="pocket", prompt="x", max_tokens=2, request_id="same")
    await mesh.collect(request)
    request.max_tokens = 3
    with pytest.raises(GenerationExists) as caught:
        await mesh.collect(request)
    assert caught.value.field == "request_id"


async def test_cancel_generation_ends_the_stream_well(mesh: Mesh) -> None:
    call = mesh.stub.Generate(
        GenerateRequest(model="pocket", prompt="x", max_tokens=900, request_id="mine")
    )
    responses: list[GenerateResponse] = []
    async for response in call:
        responses.append(response)
        if len(responses) == 3:
            await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="mine"))
    finished = responses[-1].finished
    assert finished.finish_reason == generation_pb2.FINISH_REASON_CANCELLED
    assert 0 < finished.usage.completion_tokens == len(tokens_of(responses)) < 900
    assert mesh.engine.sequences == 0


async def test_without_a_length_an_engine_with_a_shorter_context_serves(mesh: Mesh) -> None:
    mesh.engine.options.context_tokens = 100
    request = GenerateRequest(model="pocket")
    request.tokens.token_ids.extend([5] * 60)
    finished = (await mesh.collect(request))[-1].finished
    assert 0 < finished.usage.completion_tokens <= 40
    request.tokens.token_ids.extend([5] * 40)
    with pytest.raises(ContextTooLong) as caught:
        await mesh.collect(request)
    assert caught.value.field == "tokens"


async def test_a_generation_is_cancelled_while_it_is_prepared(mesh: Mesh) -> None:
    await mesh.registry.deregister(mesh.engine.instance)
    await until(lambda: mesh.engine.streams == 0)
    call = mesh.stub.Generate(GenerateRequest(model="pocket", prompt="x", request_id="mine"))
    async with asyncio.timeout(30):
        while True:  # until it waits for a replica
            try:
                await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="mine"))
                break
            except GenerationNotFound:
                await asyncio.sleep(0.01)
    [started, response] = [response async for response in call]
    assert started.started.engine_id == ""
    assert response.finished.finish_reason == generation_pb2.FINISH_REASON_CANCELLED
    assert mesh.engine.submits == []


async def test_cancelling_what_does_not_run(mesh: Mesh) -> None:
    with pytest.raises(GenerationNotFound):
        await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="none"))


@pytest.mark.parametrize("slow", [False, True])
async def test_a_client_that_goes_away_frees_its_place_and_its_id(mesh: Mesh, slow: bool) -> None:
    request = GenerateRequest(model="pocket", prompt="x", max_tokens=900)
    call = mesh.stub.Generate(request)
    first = await call.read()
    assert isinstance(first, GenerateResponse)
    request.request_id = first.started.request_id
    if slow:  # deltas wait for it
        steps = mesh.engine.steps
        await until(lambda: mesh.engine.steps > steps + 50)
    mesh.engine.may_step.clear()
    call.cancel()
    await until(lambda: mesh.engine.sequences == 0)
    mesh.engine.may_step.set()
    request.max_tokens = 1
    assert (await mesh.collect(request))[-1].HasField("finished")


async def test_a_deadline_leaves_the_text_so_far(mesh: Mesh) -> None:
    mesh.engine.options.step_s = 0.01
    call = mesh.stub.Generate(
        GenerateRequest(model="pocket", prompt="x", max_tokens=1000), timeout=4
    )
    responses: list[GenerateResponse] = []

    async def read() -> None:
        async for response in call:
            responses.append(response)

    with pytest.raises(DeadlineExceeded):
        await read()
    assert len(tokens_of(responses)) > 1
    [submit] = mesh.engine.submits
    assert 0 < submit.timeout_ms < 4000
    # The client's own deadline may end the call before the engine's does.
    await until(lambda: mesh.engine.sequences == 0)


async def test_a_slow_reader_gets_fewer_larger_messages_and_loses_nothing(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    total = 50_000
    options = FakeEngineOptions(tokens_per_step=50, step_s=0, context_tokens=2 * total)
    model = pocket(context_tokens=2 * total)
    async with running_mesh(tmp_path, tokenizer_dir, options, model) as mesh:
        request = GenerateRequest(model="pocket", prompt="x", max_tokens=total)
        # A small window, so that a reader's absence is felt before a megabyte has been sent.
        window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
        async with aio.insecure_channel(mesh.server.address, options=window) as channel:
            call = GenerationServiceStub(channel).Generate(request)
            reader = aiter(call)
            responses = [await anext(reader)]
            await until(lambda: mesh.engine.submits != [] and mesh.engine.sequences == 0)
            responses += [response async for response in reader]
    assert len(tokens_of(responses)) == total
    assert max(len(response.delta.token_ids) for response in responses) > 50
    assert len(responses) < total / 50
    assert [response.sequence for response in responses] == [*range(1, len(responses) + 1)]


async def test_32_at_once_each_get_what_they_would_get_alone(mesh: Mesh) -> None:
    requests = [
        GenerateRequest(
            model="pocket",
            prompt=f"prompt {number}",
            max_tokens=20 + number,
            sampling=Sampling(seed=number),
        )
        for number in range(32)
    ]
    together = await asyncio.gather(*(mesh.collect(request) for request in requests))
    alone = [await mesh.collect(request) for request in requests]
    assert [tokens_of(each) for each in together] == [tokens_of(each) for each in alone]
    assert [text_of(each) for each in together] == [text_of(each) for each in alone]
    assert len(mesh.models.watches) == 1


@pytest.mark.parametrize("loaded", [True, False])
async def test_count_tokens_needs_no_engine(
    mesh: Mesh, tokenizer: ModelTokenizer, loaded: bool
) -> None:
    if not loaded:
        await mesh.registry.deregister(mesh.engine.instance)
    counted = await mesh.stub.CountTokens(CountTokensRequest(model="pocket", prompt="hello there"))
    expected = tokenizer.encode_prompt("hello there")
    assert (counted.tokens, list(counted.token_ids)) == (len(expected), [])
    counted = await mesh.stub.CountTokens(
        CountTokensRequest(model="pocket", chat=CHAT, return_token_ids=True)
    )
    assert list(counted.token_ids) == tokenizer.encode_rendered("<|user|>Hi</s><|assistant|>")
    assert counted.tokens == len(counted.token_ids)


async def test_count_tokens_of_nothing_and_of_no_model(mesh: Mesh) -> None:
    counted = await mesh.stub.CountTokens(CountTokensRequest(model="pocket", prompt=""))
    assert counted.tokens == 0
    with pytest.raises(ModelNotFound):
        await mesh.stub.CountTokens(CountTokensRequest(model="none", prompt="x"))
