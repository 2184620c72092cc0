"""Generations that outlive their engine, their reader, or the process that began them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    CancelGenerationRequest,
    CompleteRequest,
    Delta,
    GenerateRequest,
    GenerateResponse,
    GetGenerationRequest,
    ReceivedOutput,
    ResumeGenerationRequest,
    Started,
)
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import (
    Cancelled,
    EngineLost,
    GenerationExists,
    GenerationNotFound,
    InvalidArgument,
    MessagesExpired,
    ReaderReplaced,
)
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, pocket, running_mesh

TEXT = "Zürich 👩‍👩‍👧 日本語 and so on, up to the EN"
STREAMS = 8


def text_of(responses: list[GenerateResponse]) -> str:
    return "".join(response.delta.text for response in responses)


def tokens_of(responses: list[GenerateResponse]) -> list[int]:
    return [token for response in responses for token in response.delta.token_ids]


def received(responses: list[GenerateResponse]) -> ReceivedOutput:
    return ReceivedOutput(token_ids=tokens_of(responses), text_characters=len(text_of(responses)))


def is_gapless(responses: list[GenerateResponse], first: int = 1) -> bool:
    numbers = [response.sequence for response in responses]
    return numbers == list(range(first, first + len(numbers)))


@asynccontextmanager
async def second_engine(mesh: Mesh) -> AsyncIterator[FakeEngine]:
    options = FakeEngineOptions(engine_id="engine-2", choose=mesh.engine.options.choose)
    async with FakeEngine(options).running() as engine:
        await mesh.registry.register(engine.instance)
        yield engine


def request(**fields: object) -> GenerateRequest:
    defaults: dict[str, object] = {
        "model": "pocket",
        "prompt": "x",
        "max_tokens": 300,
        "sampling": Sampling(seed=3, temperature=1),
    }
    return GenerateRequest(**{**defaults, **fields})  # pyright: ignore[reportArgumentType]


async def attach(mesh: Mesh, request_id: str, after: int = 0) -> list[GenerateResponse]:
    asked = AttachGenerationRequest(request_id=request_id, after_sequence=after)
    return [answer.message async for answer in mesh.stub.AttachGeneration(asked)]


async def test_streams_survive_the_loss_of_their_engine(mesh: Mesh) -> None:
    undisturbed = await mesh.collect(request())
    async with second_engine(mesh) as other:
        streams = [asyncio.create_task(mesh.collect(request())) for _ in range(STREAMS)]
        await until(lambda: mesh.engine.sequences + other.sequences == STREAMS)
        steps = mesh.engine.steps
        await until(lambda: mesh.engine.steps > steps + 50)
        victims = mesh.engine.sequences
        await mesh.engine.stop()
        results = await asyncio.gather(*streams)
    for responses in results:
        assert is_gapless(responses)
        assert tokens_of(responses) == tokens_of(undisturbed)
        assert text_of(responses) == text_of(undisturbed)
    moved = sum(responses[-1].finished.timings.resumptions for responses in results)
    assert victims > 0
    assert moved == victims


async def test_a_stream_waits_for_the_engine_that_is_started_again(
    mesh: Mesh, tokenizer: ModelTokenizer
) -> None:
    mesh.script(tokenizer.encode_rendered(TEXT))
    asked = request(stop=["ENZ"])
    undisturbed = await mesh.collect(asked)
    for _ in range(5):
        stream = asyncio.create_task(mesh.collect(asked))
        await until(lambda: mesh.engine.sequences == 1)
        until_step = mesh.engine.steps + 20
        await until(lambda wanted=until_step: mesh.engine.steps > wanted)
        mesh.engine.break_streams()
        responses = await stream
        assert is_gapless(responses)
        assert tokens_of(responses) == tokens_of(undisturbed)
        assert text_of(responses) == text_of(undisturbed)
        assert responses[-1].finished.timings.resumptions == 1
        assert responses[-1].finished.stop_text == "ENZ"


async def test_an_engine_that_says_nothing_is_lost(mesh: Mesh) -> None:
    undisturbed = await mesh.collect(request())
    stream = asyncio.create_task(mesh.collect(request()))
    await until(lambda: mesh.engine.sequences == 1)
    async with second_engine(mesh) as other:
        await until(lambda: other.streams == 1)
        mesh.engine.may_step.clear()
        mesh.engine.silent = True
        responses = await stream
    assert tokens_of(responses) == tokens_of(undisturbed)
    assert responses[-1].finished.timings.resumptions == 1


async def test_an_engine_that_speaks_again_is_used_again(mesh: Mesh) -> None:
    undisturbed = await mesh.collect(request())
    stream = asyncio.create_task(mesh.collect(request()))
    await until(lambda: mesh.engine.sequences == 1)
    mesh.engine.may_step.clear()
    mesh.engine.silent = True
    await until(lambda: mesh.engine.sequences == 0)
    mesh.engine.silent = False
    mesh.engine.may_step.set()
    responses = await stream
    assert tokens_of(responses) == tokens_of(undisturbed)
    assert responses[-1].finished.timings.resumptions == 1


async def test_an_engine_that_only_thinks_long_is_not_lost(mesh: Mesh) -> None:
    stream = asyncio.create_task(mesh.collect(request()))
    await until(lambda: mesh.engine.sequences == 1)
    mesh.engine.may_step.clear()
    await asyncio.sleep(1.5)
    mesh.engine.may_step.set()
    assert (await stream)[-1].finished.timings.resumptions == 0


async def test_a_model_that_was_unloaded_is_not_waited_for(mesh: Mesh, tokenizer_dir: Path) -> None:
    stream = asyncio.create_task(mesh.collect(request(max_tokens=1000)))
    await until(lambda: mesh.engine.sequences == 1)
    mesh.models.put(pocket(desired=0, on_demand=False), tokenizer_dir)
    await mesh.registry.deregister(mesh.engine.instance)
    mesh.engine.may_step.clear()
    await mesh.engine.stop()
    with pytest.raises(EngineLost):
        await stream


async def test_the_same_request_again_gives_the_same_answer(mesh: Mesh) -> None:
    free = request(request_id="mine", sampling=Sampling(temperature=1))
    first = await mesh.collect(free)
    assert await mesh.collect(free) == first
    whole = await mesh.stub.Complete(CompleteRequest(generation=free))
    assert list(whole.token_ids) == tokens_of(first)
    assert len(mesh.engine.submits) == 1


async def test_a_repeat_during_the_preparation_joins_it(mesh: Mesh) -> None:
    asked = request(request_id="mine", max_tokens=3)
    calls = [asyncio.create_task(mesh.collect(asked)) for _ in range(4)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    finished = [each for each in done if isinstance(each, list)]
    assert finished
    assert all(isinstance(each, list | ReaderReplaced) for each in done)
    assert len(mesh.engine.submits) == 1


async def test_a_reader_comes_back_to_what_went_on_without_it(mesh: Mesh) -> None:
    asked = request(request_id="mine")
    call = mesh.stub.Generate(asked)
    before = await first_of(call, 5)
    call.cancel()
    await until(lambda: mesh.engine.sequences == 0)
    after = await attach(mesh, "mine", 5)
    assert is_gapless(before + after)
    assert after[-1].finished.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert len(tokens_of(before + after)) == 300
    assert await attach(mesh, "mine", after[-1].sequence) == []
    with pytest.raises(InvalidArgument) as caught:
        await attach(mesh, "mine", after[-1].sequence + 1)
    assert caught.value.field == "after_sequence"


async def test_a_reader_that_comes_back_is_told_how_the_generation_began(mesh: Mesh) -> None:
    asked = request(request_id="mine")
    started = (await mesh.collect(asked))[0].started
    assert abs(started.create_time.ToSeconds() - time.time()) < 60
    for after in (0, 1, 5):
        attached = AttachGenerationRequest(
            request_id="mine", after_sequence=after, generation=asked
        )
        responses = [answer async for answer in mesh.stub.AttachGeneration(attached)]
        assert responses[0].started == started
        assert not any(answer.HasField("started") for answer in responses[1:])


async def test_a_reader_that_expects_another_request_gets_nothing(mesh: Mesh) -> None:
    await mesh.collect(request(request_id="mine"))
    other = request(request_id="mine", prompt="y")
    with pytest.raises(GenerationExists):
        await mesh.stub.AttachGeneration(
            AttachGenerationRequest(request_id="mine", generation=other)
        ).read()


async def test_a_new_reader_takes_over(mesh: Mesh) -> None:
    first = mesh.stub.Generate(request(request_id="mine", max_tokens=900))
    before = await first_of(first, 3)
    second = asyncio.create_task(attach(mesh, "mine", 3))
    with pytest.raises(ReaderReplaced):
        _ = [response async for response in responses_of(first)]
    assert is_gapless(before + await second)


async def first_of(call: Any, count: int) -> list[GenerateResponse]:
    return [await call.read() for _ in range(count)]


async def responses_of(call: Any) -> AsyncIterator[GenerateResponse]:
    while (response := await call.read()) is not aio.EOF:
        yield response


async def test_one_that_failed_is_begun_again(mesh: Mesh) -> None:
    asked = request(request_id="mine", max_tokens=3)
    mesh.engine.fail_running = EngineLost("x")
    mesh.engine.refuse_next.append(InvalidArgument("no", field="prompt_token_ids"))
    with pytest.raises(InvalidArgument):
        await mesh.collect(asked)
    assert len(tokens_of(await mesh.collect(asked))) == 3


async def test_nothing_is_kept_of_a_request_without_an_id(mesh: Mesh) -> None:
    responses = await mesh.collect(request(max_tokens=3))
    with pytest.raises(GenerationNotFound):
        await attach(mesh, responses[0].started.request_id)


@pytest.mark.parametrize("given", [0, 1, 7, 150, 300])
async def test_what_another_process_began_goes_on(mesh: Mesh, given: int) -> None:
    undisturbed = await mesh.collect(request())
    token_ids = tokens_of(undisturbed)
    upto = next(
        index
        for index in range(1, len(undisturbed) + 1)
        if len(tokens_of(undisturbed[:index])) >= given
    )
    had = undisturbed[:upto]
    resume = ResumeGenerationRequest(
        generation=request(model="pocket@1", request_id="gen-0123456789abcdef"),
        outputs=[received(had)],
        after_sequence=len(had),
        resumptions=1,
    )
    rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    assert tokens_of(had + rest) == token_ids
    assert text_of(had + rest) == text_of(undisturbed)
    assert is_gapless(rest, first=len(had) + 1)
    assert rest[-1].finished.timings.resumptions == 2
    assert rest[-1].finished.usage.completion_tokens == 300


@pytest.mark.parametrize(
    ("tokens", "field"),
    [([5, 500], "outputs[0].token_ids[1]"), ([5] * 301, "outputs[0].token_ids")],
)
async def test_tokens_that_cannot_be_are_refused(mesh: Mesh, tokens: list[int], field: str) -> None:
    resume = ResumeGenerationRequest(
        generation=request(), outputs=[ReceivedOutput(token_ids=tokens)], after_sequence=1
    )
    with pytest.raises(InvalidArgument) as caught:
        await mesh.stub.ResumeGeneration(resume).read()
    assert caught.value.field == field


async def test_one_that_went_on_here_can_be_attached_to_but_not_begun(mesh: Mesh) -> None:
    resume = ResumeGenerationRequest(
        generation=request(request_id="mine"),
        outputs=[ReceivedOutput(token_ids=[5, 6])],
        after_sequence=3,
        started=Started(request_id="mine", model="pocket", create_time=Timestamp(seconds=7)),
    )
    rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    assert await attach(mesh, "mine", 3) == rest
    # What it was resumed with has the version and the seed, so it cannot be compared.
    attached = AttachGenerationRequest(
        request_id="mine", after_sequence=3, generation=request(prompt="y")
    )
    first: Any = await mesh.stub.AttachGeneration(attached).read()
    assert first.started == resume.started
    for repeat in (mesh.collect(request(request_id="mine")), attach(mesh, "mine", 2)):
        with pytest.raises(MessagesExpired):
            await repeat
    again = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    assert again == rest
    assert len(mesh.engine.submits) == 1


@pytest.mark.parametrize("after_sequence", [2, 5000])
async def test_one_that_went_on_elsewhere_meanwhile_is_not_read_by_its_numbers(
    mesh: Mesh, after_sequence: int
) -> None:
    """Another instance has merged other tokens into its messages."""
    asked = request(request_id="mine", max_tokens=60)
    whole = await mesh.collect(asked)
    had = whole[: len(whole) // 2]
    resume = ResumeGenerationRequest(
        generation=asked,
        outputs=[received(had)],
        after_sequence=after_sequence,
        resumptions=1,
        started=whole[0].started,
    )
    rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    assert tokens_of(had + rest) == tokens_of(whole)
    assert text_of(had + rest) == text_of(whole)
    assert is_gapless(rest, first=after_sequence + 1)
    # The old one is replaced, so that another loss finds the one whose numbers the caller has.
    assert await attach(mesh, "mine", after_sequence) == rest


async def test_one_that_was_lost_on_the_way_only_is_read_on(mesh: Mesh) -> None:
    asked = request(request_id="mine", max_tokens=60)
    whole = await mesh.collect(asked)
    had = whole[: len(whole) // 2]
    resume = ResumeGenerationRequest(
        generation=asked,
        outputs=[received(had)],
        after_sequence=len(had),
        started=whole[0].started,
        takeover=2,
    )
    rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    assert had + rest == whole
    assert len(mesh.engine.submits) == 1
    # Another instance was asked before, and may have the generation too.
    found = await mesh.stub.GetGeneration(GetGenerationRequest(request_id="mine"))
    assert (found.takeover, found.numbering) == (2, whole[0].numbering)


@asynccontextmanager
async def mesh_with(tmp_path: Path, tokenizer_dir: Path, **settings: object) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(
            running_mesh(tmp_path, tokenizer_dir, settings=settings)
        )


async def test_one_that_nobody_reads_is_cancelled_in_time(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    async with mesh_with(tmp_path, tokenizer_dir, detached_timeout_s=0.1) as mesh:
        mesh.engine.options.step_s = 0.05
        call = mesh.stub.Generate(request(request_id="mine", max_tokens=900))
        await call.read()
        call.cancel()
        await until(lambda: mesh.engine.sequences == 1)
        await until(lambda: mesh.engine.sequences == 0)
        with pytest.raises(Cancelled):
            await attach(mesh, "mine", 1)


async def test_what_is_kept_is_bounded(tmp_path: Path, tokenizer_dir: Path) -> None:
    async with mesh_with(tmp_path, tokenizer_dir, retained_generations=2) as mesh:
        for number in range(3):
            await mesh.collect(request(request_id=f"id-{number}", max_tokens=3))
        with pytest.raises(GenerationNotFound):
            await attach(mesh, "id-0")
        assert await attach(mesh, "id-2")
    async with mesh_with(tmp_path, tokenizer_dir, retained_bytes=4000) as mesh:
        call = mesh.stub.Generate(request(request_id="long", max_tokens=900))
        assert [response async for response in responses_of(call)]
        with pytest.raises((MessagesExpired, GenerationNotFound)):
            await attach(mesh, "long")


async def test_another_request_cannot_have_the_id_while_it_is_kept(mesh: Mesh) -> None:
    await mesh.collect(request(request_id="mine", max_tokens=3))
    with pytest.raises(GenerationExists):
        await mesh.stub.Complete(
            CompleteRequest(generation=request(request_id="mine", max_tokens=4))
        )


async def test_what_the_caller_received_is_retained_where_it_goes_on(mesh: Mesh) -> None:
    asked = request(request_id="kept", keep_request=True, client_data="of the caller")
    whole = await mesh.collect(asked)
    begun = whole[: len(whole) // 2]
    await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="kept", forget=True))
    resume = ResumeGenerationRequest(
        generation=asked,
        outputs=[received(begun)],
        after_sequence=len(begun),
        started=begun[0].started,
        received=begun,
    )
    rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    assert tokens_of(begun + rest) == tokens_of(whole)
    again = await attach(mesh, "kept")
    assert again == begun + rest
    found = await mesh.stub.GetGeneration(GetGenerationRequest(request_id="kept"))
    assert (found.text, list(found.token_ids)) == (text_of(whole), tokens_of(whole))
    assert found.generation == asked


async def test_what_the_caller_received_is_all_or_nothing(mesh: Mesh) -> None:
    message = GenerateResponse(sequence=2, delta=Delta(text="a", token_ids=[1]))
    resume = ResumeGenerationRequest(
        generation=request(request_id="kept", keep_request=True),
        outputs=[ReceivedOutput(token_ids=[1])],
        after_sequence=2,
        received=[message],
    )
    with pytest.raises(InvalidArgument) as caught:
        [answer async for answer in mesh.stub.ResumeGeneration(resume)]
    assert caught.value.field == "received"
