"""The generation service with a real engine and the bundled model."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    ChatMessage,
    CompleteRequest,
    CompleteResponse,
    GenerateRequest,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.engine_child import POCKET_MINI, engine_child
from tests.fakes.model_service import FakeModelService
from tests.fakes.registry import InMemoryRegistry
from tests.integration.generation.harness import generation_service, pocket

CHAT = ChatInput(messages=[ChatMessage(role=generation_pb2.ROLE_USER, content="Tell me a story.")])


@pytest.fixture(scope="module")
def engine_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with engine_child(tmp_path_factory.mktemp("engine")) as address:
        yield address


@pytest.fixture
async def stub(tmp_path: Path, engine_address: str) -> AsyncIterator[GenerationServiceStub]:
    registry, models = InMemoryRegistry(), FakeModelService()
    models.put(pocket(vocab_size=1024, context_tokens=16384), POCKET_MINI)
    metadata = {"model": "pocket", "version": "1"}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(models.running())
        await registry.register(models.instance)
        await registry.register(Instance("engine", "engine-1", engine_address, 0, metadata))
        server = await stack.enter_async_context(generation_service(registry, tmp_path))
        channel = await stack.enter_async_context(open_channel(server.address))
        yield GenerationServiceStub(channel)


async def complete(stub: GenerationServiceStub, request: GenerateRequest) -> CompleteResponse:
    return await stub.Complete(CompleteRequest(generation=request))


async def test_a_chat_is_answered_and_ends_by_itself(stub: GenerationServiceStub) -> None:
    request = GenerateRequest(model="pocket", chat=CHAT, max_tokens=1000)
    response = await complete(stub, request)
    tokenizer = ModelTokenizer.load(POCKET_MINI)
    assert response.text
    assert response.text == tokenizer.decode(response.token_ids)
    assert "<|end|>" not in response.text
    assert response.finished.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert response.finished.stop_token_id == response.token_ids[-1]
    assert response.finished.usage.completion_tokens == len(response.token_ids)
    assert response.finished.timings.decode_ms > 0


async def test_a_stream_says_what_complete_says(stub: GenerationServiceStub) -> None:
    request = GenerateRequest(
        model="pocket", chat=CHAT, max_tokens=60, sampling=Sampling(temperature=1, seed=3)
    )
    whole = await complete(stub, request)
    streamed = [response async for response in stub.Generate(request)]
    assert "".join(response.delta.text for response in streamed) == whole.text
    assert streamed[-1].finished.usage == whole.finished.usage


async def test_a_stop_text_is_cut_off_and_the_place_is_free_again(
    stub: GenerationServiceStub,
) -> None:
    request = GenerateRequest(model="pocket", chat=CHAT, max_tokens=60, ignore_eos=True)
    whole = (await complete(stub, request)).text
    stop = whole[10:14]
    request.stop.append(stop)
    response = await complete(stub, request)
    assert response.text == whole[: whole.index(stop)]
    assert response.finished.stop_text == stop
    assert response.finished.timings.decode_ms > 0


async def test_32_different_samplers_at_once(stub: GenerationServiceStub) -> None:
    requests = [
        GenerateRequest(
            model="pocket",
            chat=CHAT,
            max_tokens=12,
            ignore_eos=True,
            sampling=Sampling(temperature=0.2 + number / 20, top_k=number + 1, seed=number),
        )
        for number in range(32)
    ]
    responses = await asyncio.gather(*(complete(stub, request) for request in requests))
    assert [len(response.token_ids) for response in responses] == [12] * 32
    assert [response.started.seed for response in responses] == list(range(32))


async def test_a_conversation_tells_how_much_of_it_was_known(stub: GenerationServiceStub) -> None:
    request = GenerateRequest(model="pocket", max_tokens=50, ignore_eos=True)
    request.tokens.token_ids.extend(range(100, 300))
    first = await complete(stub, request)
    assert first.finished.usage.cached_tokens == 0
    request.tokens.token_ids.extend([*first.token_ids, 5, 6, 7])
    second = await complete(stub, request)
    assert 200 <= second.started.cached_tokens <= 250
    assert second.finished.usage.cached_tokens == second.started.cached_tokens
    assert second.finished.usage.prompt_tokens == 253
