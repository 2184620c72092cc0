"""What is retained of a generation: its request, its output so far, without a reader."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    CancelGenerationRequest,
    GenerateRequest,
    GenerateResponse,
    GetGenerationRequest,
    GetGenerationResponse,
)
from mlxmesh_generation.streams.entries import MAX_WAITING_BYTES
from mlxmesh_shared.errors import (
    Cancelled,
    EngineFailed,
    GenerationExists,
    GenerationNotFound,
    InvalidArgument,
    MessagesExpired,
)
from tests.fakes.engine import FakeEngineOptions
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, pocket, running_mesh


def request(max_tokens: int = 5, **fields: Any) -> GenerateRequest:
    return GenerateRequest(
        model="pocket",
        prompt="hello",
        max_tokens=max_tokens,
        **{"request_id": "mine", "keep_request": True, **fields},
    )


async def get(mesh: Mesh) -> GetGenerationResponse:
    return await mesh.stub.GetGeneration(GetGenerationRequest(request_id="mine"))


async def begun(mesh: Mesh, asked: GenerateRequest) -> Any:
    """A call that has its first message."""
    call = mesh.stub.Generate(asked)
    await call.read()
    return call


async def rest(call: Any) -> list[GenerateResponse]:
    messages: list[GenerateResponse] = []
    while (message := await call.read()) is not aio.EOF:
        messages.append(message)
    return messages


async def ended(mesh: Mesh) -> GetGenerationResponse:
    async with asyncio.timeout(20):
        while True:
            found = await get(mesh)
            if found.HasField("finished") or found.HasField("failure"):
                return found
            await asyncio.sleep(0.01)


async def test_a_generation_is_returned_with_its_request(mesh: Mesh) -> None:
    asked = request(client_data='{"anything": "of the caller\'s"}')
    messages = await mesh.collect(asked)
    found = await get(mesh)
    assert found.generation == asked
    assert found.started == messages[0].started
    assert found.started.create_time.seconds > 0
    assert found.text == "".join(message.delta.text for message in messages)
    tokens = [token for message in messages for token in message.delta.token_ids]
    assert list(found.token_ids) == tokens
    assert found.finished == messages[-1].finished
    assert not found.HasField("failure")


async def test_without_keep_request_the_request_is_not_kept(mesh: Mesh) -> None:
    await mesh.collect(request(keep_request=False))
    found = await get(mesh)
    assert not found.HasField("generation")
    assert found.HasField("finished")


async def test_it_takes_the_stream_from_no_reader(mesh: Mesh) -> None:
    call = await begun(mesh, request(200))
    read = [await call.read() for _ in range(3)]
    found = await get(mesh)
    assert not found.HasField("finished")
    assert found.text.startswith("".join(message.delta.text for message in read))
    others = await rest(call)
    assert others[-1].HasField("finished")
    assert [message.sequence for message in read + others] == [*range(2, 5 + len(others))]


async def test_it_includes_what_nobody_has_read_and_changes_nothing_in_it(mesh: Mesh) -> None:
    call = await begun(mesh, request(200, detached=True))
    call.cancel()
    await ended(mesh)
    found = await get(mesh)
    assert len(found.token_ids) == 200
    attached = mesh.stub.AttachGeneration(AttachGenerationRequest(request_id="mine"))
    messages = [response.message async for response in attached]
    assert "".join(message.delta.text for message in messages) == found.text
    assert len(messages) < 100  # what waited was merged


async def test_a_generation_that_waits_for_an_engine_is_found_once_it_has_started(
    mesh: Mesh,
) -> None:
    mesh.engine.may_step.clear()
    call = mesh.stub.Generate(request())
    await until(lambda: mesh.engine.sequences == 1)
    found = await get(mesh)
    assert found.generation.prompt == "hello"
    assert not found.token_ids
    mesh.engine.may_step.set()
    assert [message async for message in call][-1].HasField("finished")


async def test_a_failed_generation_says_why(mesh: Mesh) -> None:
    call = await begun(mesh, request(500))
    await call.read()
    mesh.engine.fail_running = EngineFailed("the model is broken")
    with pytest.raises(EngineFailed):
        await rest(call)
    found = await get(mesh)
    assert (found.failure.reason, found.failure.message) == ("ENGINE_FAILED", "the model is broken")
    assert found.token_ids


async def test_unknown_ids_and_other_owners_find_nothing(mesh: Mesh) -> None:
    await mesh.collect(request())
    other = (("mlxmesh-owner", "other"),)
    with pytest.raises(GenerationNotFound):
        await mesh.stub.GetGeneration(GetGenerationRequest(request_id="unknown"))
    with pytest.raises(GenerationNotFound):
        await mesh.stub.GetGeneration(GetGenerationRequest(request_id="mine"), metadata=other)
    forget = CancelGenerationRequest(request_id="mine", forget=True)
    with pytest.raises(GenerationNotFound):
        await mesh.stub.CancelGeneration(forget, metadata=other)
    await mesh.stub.CancelGeneration(forget)


async def test_a_detached_generation_runs_to_its_end_without_a_reader(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    settings = {"detached_timeout_s": 0.05}
    options = FakeEngineOptions(step_s=0.005)
    async with running_mesh(tmp_path, tokenizer_dir, options, settings=settings) as mesh:
        (await begun(mesh, request(100, detached=True))).cancel()
        assert (await ended(mesh)).finished.usage.completion_tokens == 100
        (await begun(mesh, request(100, request_id="other"))).cancel()
        attached = AttachGenerationRequest(request_id="other")
        await until(lambda: mesh.engine.sequences == 0)
        with pytest.raises(Cancelled):
            [message async for message in mesh.stub.AttachGeneration(attached)]


async def test_a_detached_generation_ends_at_its_deadline(mesh: Mesh) -> None:
    mesh.engine.options.step_s = 0.02
    call = mesh.stub.Generate(request(900, detached=True), timeout=2)
    await call.read()
    call.cancel()
    assert (await ended(mesh)).failure.reason == "DEADLINE_EXCEEDED"


async def test_the_output_of_a_detached_generation_may_be_longer_than_what_may_wait(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    options = FakeEngineOptions(step_s=0.0005, tokens_per_step=64, context_tokens=200_000)
    model = pocket(context_tokens=200_000)
    tokens = 100_000
    assert tokens * 36 > MAX_WAITING_BYTES
    async with running_mesh(tmp_path, tokenizer_dir, options, model=model) as mesh:
        (await begun(mesh, request(tokens, detached=True))).cancel()
        found = await ended(mesh)
        assert found.finished.usage.completion_tokens == tokens == len(found.token_ids)
        attached = mesh.stub.AttachGeneration(AttachGenerationRequest(request_id="mine"))
        messages = [response.message async for response in attached]
        assert [message.sequence for message in messages] == [*range(1, len(messages) + 1)]
        assert sum(len(message.delta.token_ids) for message in messages) == tokens


async def test_a_forgotten_generation_is_gone_and_its_id_free(mesh: Mesh) -> None:
    await mesh.collect(request())
    forget = CancelGenerationRequest(request_id="mine", forget=True)
    await mesh.stub.CancelGeneration(forget)
    with pytest.raises(GenerationNotFound):
        await get(mesh)
    with pytest.raises(GenerationNotFound):
        await mesh.stub.CancelGeneration(forget)
    assert await mesh.collect(request(3))


async def test_forgetting_ends_a_running_generation_and_its_stream(mesh: Mesh) -> None:
    call = await begun(mesh, request(900))
    await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="mine", forget=True))
    with pytest.raises(Cancelled):
        await rest(call)
    await until(lambda: mesh.engine.sequences == 0)


async def test_a_kept_request_counts_as_retained_bytes(tmp_path: Path, tokenizer_dir: Path) -> None:
    settings = {"retained_bytes": 10_000}
    async with running_mesh(tmp_path, tokenizer_dir, settings=settings) as mesh:
        await mesh.collect(request(2))
        await mesh.collect(request(2, request_id="large", client_data="x" * 9_500))
        with pytest.raises(GenerationNotFound):
            await get(mesh)


async def test_without_its_first_messages_there_is_no_output_to_return(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    async with running_mesh(tmp_path, tokenizer_dir, settings={"retained_bytes": 2_000}) as mesh:
        call = await begun(mesh, request(200))
        for _ in range(20):
            await call.read()
        with pytest.raises(MessagesExpired):
            await get(mesh)
        call.cancel()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": "", "keep_request": True}, "keep_request"),
        ({"request_id": "", "keep_request": False, "detached": True}, "detached"),
        ({"keep_request": False, "client_data": "x"}, "client_data"),
        ({"client_data": "x" * 65_537}, "client_data"),
    ],
)
async def test_fields_that_need_another_one(mesh: Mesh, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await mesh.collect(request(**fields))
    assert caught.value.field == field


@pytest.mark.parametrize("request_id", ["", "\u00e4", "x" * 129])
async def test_illegal_ids(mesh: Mesh, request_id: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await mesh.stub.GetGeneration(GetGenerationRequest(request_id=request_id))
    assert caught.value.field == "request_id"


async def test_the_same_id_with_other_data_is_another_request(mesh: Mesh) -> None:
    await mesh.collect(request(client_data="a"))
    with pytest.raises(GenerationExists):
        await mesh.collect(request(client_data="b"))
    again = await mesh.collect(request(client_data="a"))
    assert again[-1].finished.finish_reason == generation_pb2.FINISH_REASON_LENGTH
