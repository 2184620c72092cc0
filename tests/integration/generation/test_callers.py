"""No caller hurts another: not by what it sends, not by what it does not read, not by its ids."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.errors import (
    Cancelled,
    ContextTooLong,
    GenerationNotFound,
    TooManyRequests,
)
from tests.fakes import tokenizer_files
from tests.fakes.engine import FakeEngineOptions
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, pocket, running_mesh

CHAT = g.ChatInput(messages=[g.ChatMessage(role=g.ROLE_USER, content="Hi")])
LARGE = 1_000_000


def by(caller: str) -> dict[str, Any]:
    return {"metadata": (("mlxmesh-caller", caller),)}


@pytest.fixture
async def large(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Mesh]:
    """A model whose context is large, and little room for requests."""
    options = FakeEngineOptions(context_tokens=LARGE)
    settings = {"max_held_bytes": 1_000_000}
    model = pocket(context_tokens=LARGE)
    async with running_mesh(tmp_path, tokenizer_dir, options, model, settings) as mesh:
        yield mesh


async def refused(calls: list[Any]) -> int:
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    errors = [each for each in outcomes if isinstance(each, BaseException)]
    assert all(isinstance(error, TooManyRequests) and error.retry_delay_s for error in errors)
    return len(errors)


@pytest.mark.parametrize("kind", ["prompt", "chat"])
async def test_counts_hold_no_more_than_generations_may(large: Mesh, kind: str) -> None:
    text = "word " * 60_000
    asked = g.CountTokensRequest(model="pocket", prompt=text)
    if kind == "chat":
        message = g.ChatMessage(role=g.ROLE_USER, content=text)
        asked = g.CountTokensRequest(model="pocket", chat=g.ChatInput(messages=[message]))
    await large.stub.CountTokens(asked, **by("a"))
    calls = [large.stub.CountTokens(asked, **by("a")) for _ in range(60)]
    counting = asyncio.create_task(refused(calls))
    chat = g.GenerateRequest(model="pocket", chat=CHAT, max_tokens=1)
    for _ in range(5):
        await large.stub.Complete(g.CompleteRequest(generation=chat), **by("b"))
    assert 40 <= await counting <= 58
    # All of it is given back.
    assert await refused([large.stub.CountTokens(asked, **by("a")) for _ in range(3)]) == 0


async def test_counts_whose_callers_left_make_room_at_once(large: Mesh) -> None:
    asked = g.CountTokensRequest(model="pocket", prompt="word " * 60_000)
    for _ in range(10):
        calls = [large.stub.CountTokens(asked, **by("a")) for _ in range(3)]
        await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    async with asyncio.timeout(30):
        while await refused([large.stub.CountTokens(asked, **by("b"))]):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["prompt", "chat"])
async def test_a_text_that_cannot_fit_is_refused_by_its_length(mesh: Mesh, kind: str) -> None:
    text = "word " * 400_000
    asked: dict[str, Any] = {"prompt": text}
    if kind == "chat":
        asked = {"chat": g.ChatInput(messages=[g.ChatMessage(role=g.ROLE_USER, content=text)])}
    process = psutil.Process(os.getpid())
    before_s = process.cpu_times().user
    for _ in range(10):
        with pytest.raises(ContextTooLong, match="bytes") as caught:
            await mesh.stub.CountTokens(g.CountTokensRequest(model="pocket", **asked))
        assert caught.value.field == kind
        with pytest.raises(ContextTooLong, match="bytes"):
            await mesh.collect(g.GenerateRequest(model="pocket", **asked))
    # To tokenize them takes some seconds each.
    assert process.cpu_times().user - before_s < 10


async def test_a_hostile_template_holds_up_nobody_elses_model(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    hostile = tokenizer_files.byte_level(tmp_path / "hostile", chat_template=endless)
    async with running_mesh(tmp_path, tokenizer_dir) as mesh:
        model = pocket(digest="cd" * 32)
        model.name = "hostile"
        mesh.models.put(model, hostile)
        bad = g.CountTokensRequest(model="hostile", chat=CHAT)
        calls = [mesh.stub.CountTokens(bad, **by("a")) for _ in range(50)]
        for _ in range(20):
            good = g.CountTokensRequest(model="pocket", chat=CHAT)
            assert (await mesh.stub.CountTokens(good, timeout=4, **by("b"))).tokens
        assert not any(call.done() and call.cancelled() for call in calls)
        assert sum(call.done() for call in calls) < 50
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


# Request ids belong to their callers.


def generation(request_id: str = "id", **fields: Any) -> g.GenerateRequest:
    return g.GenerateRequest(
        model="pocket", prompt="x", request_id=request_id, **{"max_tokens": 900, **fields}
    )


async def status_of(call: Any) -> tuple[Any, ...]:
    """Everything that a caller can tell of a failure."""
    with pytest.raises(aio.AioRpcError) as caught:
        async for _ in call:
            pass
    error = caught.value
    return error.code(), error.details(), error.trailing_metadata()


async def test_anothers_generation_is_as_unknown_as_any(mesh: Mesh) -> None:
    mesh.engine.may_step.clear()
    stream = aiter(mesh.stub.Generate(generation(), **by("a")))
    await anext(stream)
    # A plain channel, for statuses as they are on the wire.
    async with aio.insecure_channel(mesh.server.address) as channel:
        stub = GenerationServiceStub(channel)
        told = [
            await status_of(stub.AttachGeneration(g.AttachGenerationRequest(request_id=id_), **who))
            for id_, who in (("id", by("b")), ("id", {}), ("none", by("b")))
        ]
        assert told[0] == told[1] == told[2]
        assert told[0][0] is grpc.StatusCode.NOT_FOUND
        ends: list[tuple[Any, ...]] = []
        for id_ in ("id", "none"):
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.CancelGeneration(g.CancelGenerationRequest(request_id=id_), **by("b"))
            error = caught.value
            ends.append((error.code(), error.details(), error.trailing_metadata()))
        assert ends[0] == ends[1]
    mesh.engine.may_step.set()
    rest = [response async for response in stream]
    assert rest[-1].finished.finish_reason == g.FINISH_REASON_LENGTH


async def test_the_owner_attaches_and_cancels(mesh: Mesh) -> None:
    call = mesh.stub.Generate(generation(), **by("a"))
    await call.read()
    call.cancel()
    attach = g.AttachGenerationRequest(request_id="id")
    attached = aiter(mesh.stub.AttachGeneration(attach, **by("a")))
    await anext(attached)
    await mesh.stub.CancelGeneration(g.CancelGenerationRequest(request_id="id"), **by("a"))
    messages = [answer.message async for answer in attached]
    assert messages[-1].finished.finish_reason == g.FINISH_REASON_CANCELLED


async def test_two_callers_may_choose_the_same_id(mesh: Mesh) -> None:
    first = mesh.stub.Generate(generation(max_tokens=3, sampling=Sampling(seed=1)), **by("a"))
    second = mesh.stub.Generate(generation(max_tokens=5, sampling=Sampling(seed=2)), **by("b"))
    for call, tokens in ((first, 3), (second, 5)):
        responses = [response async for response in call]
        assert responses[-1].finished.usage.completion_tokens == tokens
    # Repeated, each gets its own again.
    again = mesh.stub.Generate(generation(max_tokens=3, sampling=Sampling(seed=1)), **by("a"))
    assert [response async for response in again][-1].finished.usage.completion_tokens == 3
    assert len(mesh.engine.submits) == 2


async def test_an_id_that_was_made_up_is_its_callers_too(mesh: Mesh) -> None:
    mesh.engine.may_step.clear()
    asked = g.GenerateRequest(model="pocket", prompt="x")
    stream = aiter(mesh.stub.Generate(asked, **by("a")))
    first = await anext(stream)
    cancel = g.CancelGenerationRequest(request_id=first.started.request_id)
    with pytest.raises(GenerationNotFound):
        await mesh.stub.CancelGeneration(cancel, **by("b"))
    await mesh.stub.CancelGeneration(cancel, **by("a"))
    mesh.engine.may_step.set()
    [*_, last] = [response async for response in stream]
    assert last.finished.finish_reason == g.FINISH_REASON_CANCELLED


async def test_what_a_gateway_says_of_the_owner_counts(mesh: Mesh) -> None:
    told: dict[str, Any] = {"metadata": (("mlxmesh-caller", "a"), ("mlxmesh-owner", "id-of-a#a"))}
    await mesh.stub.Complete(g.CompleteRequest(generation=generation(max_tokens=1)), **told)
    attach = g.AttachGenerationRequest(request_id="id")
    with pytest.raises(GenerationNotFound):
        await mesh.stub.AttachGeneration(attach, **by("a")).read()
    assert await mesh.stub.AttachGeneration(attach, **told).read()


# Readers that do not read.


async def test_readers_that_stand_still_cost_their_own_caller(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    total = 60_000
    options = FakeEngineOptions(tokens_per_step=100, step_s=0, context_tokens=2 * total)
    model = pocket(context_tokens=2 * total)
    settings = {"max_unread_bytes": 4_000_000}
    window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    async with (
        running_mesh(tmp_path, tokenizer_dir, options, model, settings) as mesh,
        aio.insecure_channel(mesh.server.address, options=window) as channel,
    ):
        stub = GenerationServiceStub(channel)
        asked = [generation(f"id-{number}", max_tokens=total) for number in range(12)]
        still = [aiter(stub.Generate(each, **by("a"))) for each in asked]
        for stream in still:
            await anext(stream)
        whole = generation("mine", max_tokens=total)
        mine = [response async for response in mesh.stub.Generate(whole, **by("b"))]
        assert mine[-1].finished.usage.completion_tokens == total
        await until(lambda: mesh.engine.sequences == 0, timeout_s=60)
        ends = await asyncio.gather(*map(end_of, still))
    lost = [end for end in ends if isinstance(end, aio.AioRpcError)]
    assert 0 < len(lost) < 12
    assert {end.code() for end in lost} == {grpc.StatusCode.CANCELLED}


async def end_of(stream: Any) -> Any:
    try:
        return [response async for response in stream][-1]
    except aio.AioRpcError as error:
        return error


async def test_what_one_caller_has_kept_evicts_nobody_elses(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    settings = {"retained_bytes": 20_000, "retained_generations": 20}
    async with running_mesh(tmp_path, tokenizer_dir, settings=settings) as mesh:
        await mesh.stub.Complete(
            g.CompleteRequest(generation=generation("mine", max_tokens=20)), **by("a")
        )
        for number in range(50):
            other = generation(f"id-{number}", max_tokens=20)
            await mesh.stub.Complete(g.CompleteRequest(generation=other), **by("b"))
        attach = g.AttachGenerationRequest(request_id="mine")
        kept = [answer async for answer in mesh.stub.AttachGeneration(attach, **by("a"))]
        assert kept[-1].message.finished.usage.completion_tokens == 20
        old = g.AttachGenerationRequest(request_id="id-0")
        with pytest.raises(GenerationNotFound):
            await mesh.stub.AttachGeneration(old, **by("b")).read()


async def test_a_reader_that_fell_behind_is_told(tmp_path: Path, tokenizer_dir: Path) -> None:
    options = FakeEngineOptions(tokens_per_step=100, step_s=0, context_tokens=200_000)
    settings = {"max_unread_bytes": 100_000}
    model = pocket(context_tokens=200_000)
    async with running_mesh(tmp_path, tokenizer_dir, options, model, settings) as mesh:
        mesh.engine.may_step.clear()
        call = mesh.stub.Generate(generation(max_tokens=60_000), **by("a"))
        await call.read()
        call.cancel()
        mesh.engine.may_step.set()
        await until(lambda: mesh.engine.submits != [] and mesh.engine.sequences == 0, timeout_s=30)
        attach = g.AttachGenerationRequest(request_id="id")
        with pytest.raises(Cancelled, match="read faster"):
            async for _ in mesh.stub.AttachGeneration(attach, **by("a")):
                pass
