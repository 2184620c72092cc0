"""Several outputs with log-probabilities, through losses of engines and instances."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    FINISH_REASON_CANCELLED,
    AttachGenerationRequest,
    CancelGenerationRequest,
    CompleteRequest,
    CompleteResponse,
    GenerateRequest,
    GenerateResponse,
    GetGenerationRequest,
    Logprobs,
    ReceivedOutput,
    ResumeGenerationRequest,
)
from mlxmesh_gateway.forwarding.recording import Recording
from mlxmesh_generation.convert_events import WholeOutputs, event_of
from mlxmesh_shared.errors import InvalidArgument
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh

N = 4
TOKENS = 120


def request(**fields: object) -> GenerateRequest:
    defaults: dict[str, object] = {
        "model": "pocket",
        "prompt": "the quick brown fox",
        "max_tokens": TOKENS,
        "sampling": Sampling(seed=3, temperature=1),
        "n": N,
        "logprobs": Logprobs(top=2, prompt=True),
    }
    return GenerateRequest(**{**defaults, **fields})  # pyright: ignore[reportArgumentType]


def whole(messages: list[GenerateResponse]) -> CompleteResponse:
    """All outputs in one message, without what differs from run to run."""
    assert [message.sequence for message in messages] == [*range(1, len(messages) + 1)]
    assert [message.HasField("started") for message in messages].count(True) == 1
    assert [message.finished.HasField("total_usage") for message in messages].index(True) == (
        len(messages) - 1
    )
    response = CompleteResponse()
    outputs = WholeOutputs(response)
    for message in messages:
        outputs.add(event_of(message))
    outputs.complete()
    return comparable(response)


def comparable(response: CompleteResponse) -> CompleteResponse:
    response.ClearField("started")
    for output in (response, *response.other_outputs):
        output.finished.ClearField("timings")
        output.finished.ClearField("device_ms")
    return response


def every_output_is_whole(response: CompleteResponse) -> bool:
    outputs = (response, *response.other_outputs)
    return len(outputs) == N and all(
        len(output.token_ids) == TOKENS
        and [one.token_id for one in output.logprobs] == list(output.token_ids)
        for output in outputs
    )


@asynccontextmanager
async def second_engine(mesh: Mesh) -> AsyncIterator[FakeEngine]:
    options = FakeEngineOptions(engine_id="engine-2", choose=mesh.engine.options.choose)
    async with FakeEngine(options).running() as engine:
        await mesh.registry.register(engine.instance)
        await until(lambda: engine.streams == 1)
        yield engine


async def test_outputs_differ_and_share_the_prefill_of_the_first(mesh: Mesh) -> None:
    async with second_engine(mesh) as other:
        response = whole(await mesh.collect(request()))
        submits = mesh.engine.submits or other.submits
        assert len(submits) == N  # all at the same engine
    assert every_output_is_whole(response)
    texts = {response.text, *(output.text for output in response.other_outputs)}
    assert len(texts) == N
    assert len({submit.sampling.seed for submit in submits}) == N
    assert submits[0].sampling.seed == 3
    assert [submit.shares_prefill_of for submit in submits[1:]] == [submits[0].sequence_id] * 3
    assert [submit.logprobs.prompt for submit in submits] == [True, False, False, False]
    assert response.finished.total_usage.completion_tokens == N * TOKENS
    prompt = response.prompt_logprobs
    assert len(prompt) == response.finished.usage.prompt_tokens
    assert [one.HasField("logprob") for one in prompt] == [False] + [True] * (len(prompt) - 1)
    assert b"".join(one.bytes for one in prompt) == b"the quick brown fox"


async def test_one_output_is_the_first_of_several(mesh: Mesh) -> None:
    several = whole(await mesh.collect(request()))
    one = whole(await mesh.collect(request(n=1)))
    assert (one.text, one.logprobs) == (several.text, several.logprobs)


async def test_complete_and_get_return_all_outputs(mesh: Mesh) -> None:
    streamed = whole(await mesh.collect(request()))
    asked = request(request_id="mine")
    complete = await mesh.stub.Complete(CompleteRequest(generation=asked))
    assert comparable(complete) == streamed
    got = await mesh.stub.GetGeneration(GetGenerationRequest(request_id="mine"))
    assert (got.text, got.other_outputs[0].text) == (
        streamed.text,
        streamed.other_outputs[0].text,
    )
    assert got.prompt_logprobs == streamed.prompt_logprobs
    assert got.finished.total_usage == streamed.finished.total_usage


async def test_all_outputs_survive_the_loss_of_their_engine(mesh: Mesh) -> None:
    undisturbed = whole(await mesh.collect(request()))
    async with second_engine(mesh) as other:
        mesh.engine.options.step_s = other.options.step_s = 0.005
        stream = asyncio.create_task(mesh.collect(request()))
        await until(lambda: mesh.engine.sequences + other.sequences == N)
        lost = mesh.engine if mesh.engine.sequences else other
        steps = lost.steps
        await until(lambda: lost.steps > steps + 20)
        lost.break_streams()
        messages = await stream
    assert whole(messages) == undisturbed
    ends = [message.finished for message in messages if message.HasField("finished")]
    assert [end.timings.resumptions for end in ends] == [1] * N


async def test_an_output_waits_for_room(mesh: Mesh) -> None:
    undisturbed = whole(await mesh.collect(request(n=2)))
    mesh.engine.options.max_running, mesh.engine.options.max_waiting = 1, 0
    messages = await mesh.collect(request(n=2))
    assert whole(messages) == undisturbed
    assert mesh.engine.submits[-1].sampling.seed != 3  # the second one came last


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 40, 90, -1])
async def test_another_instance_continues_every_output(mesh: Mesh, cut: int) -> None:
    messages = await mesh.collect(request())
    undisturbed = whole(list(messages))
    had = messages[:cut]
    recording = Recording()
    for message in had:
        recording.add(message.SerializeToString())
    mesh.engine.submits.clear()
    resume = recording.resume_request(request())
    rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    assert whole(had + rest) == undisturbed
    ended = sum(message.HasField("finished") for message in had)
    assert len(mesh.engine.submits) == N - ended


async def test_what_was_received_is_retained_where_it_goes_on(mesh: Mesh) -> None:
    asked = request(request_id="kept", keep_request=True)
    messages = await mesh.collect(asked)
    had = messages[:-2]
    await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="kept", forget=True))
    recording = Recording(keeps_all=lambda: True)
    for message in had:
        recording.add(message.SerializeToString())
    resume = recording.resume_request(asked)
    rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    attach = AttachGenerationRequest(request_id="kept")
    again = [answer.message async for answer in mesh.stub.AttachGeneration(attach)]
    assert again == had + rest
    assert whole(again) == whole(messages)


async def test_cancelling_ends_every_output(mesh: Mesh) -> None:
    mesh.engine.options.step_s = 0.01
    stream = asyncio.create_task(mesh.collect(request(request_id="mine")))
    await until(lambda: mesh.engine.sequences == N)
    await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="mine"))
    ends = [each.finished for each in await stream if each.HasField("finished")]
    assert [end.finish_reason for end in ends] == [FINISH_REASON_CANCELLED] * N
    assert {end.index for end in ends} == set(range(N))
    assert mesh.engine.sequences == 0


async def test_a_client_that_leaves_frees_all_outputs(mesh: Mesh) -> None:
    mesh.engine.options.step_s = 0.01
    call = mesh.stub.Generate(request())
    await call.read()
    await until(lambda: mesh.engine.sequences == N)
    call.cancel()
    await until(lambda: mesh.engine.sequences == 0)


async def test_an_output_that_the_request_does_not_have_is_refused(mesh: Mesh) -> None:
    resume = ResumeGenerationRequest(
        generation=request(n=2), outputs=[ReceivedOutput(index=2)], after_sequence=1
    )
    with pytest.raises(InvalidArgument) as caught:
        await mesh.stub.ResumeGeneration(resume).read()
    assert caught.value.field == "outputs[0].index"
