"""Public calls reach the right service, unchanged, and so do the answers."""

import asyncio
from typing import Any

import grpc
import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_shared.errors import (
    GenerationNotFound,
    MethodNotFound,
    ModelNotFound,
    NoReplica,
    QueueFull,
    ServiceUnavailable,
)

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COUNT = "/mlxmesh.generation.v1.GenerationService/CountTokens"


async def test_a_stream_comes_through_in_order(stand: Any) -> None:
    await stand.generation()
    client = await stand.client(await stand.gateway())

    events = [event async for event in client.generate("pocket", prompt="a b c")]

    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    assert "".join(event.text for event in events) == "a b c "
    assert events[0].started is not None
    assert events[-1].finished is not None


async def test_unary_calls_go_to_the_service_of_their_contract(stand: Any) -> None:
    await stand.generation()
    models = await stand.models()
    client = await stand.client(await stand.gateway())

    assert (await client.complete("pocket", prompt="hello")).text == "hello"
    assert (await client.count_tokens("pocket", prompt="a b c")).tokens == 3
    await client.register_model(name="pocket", directory="/models/pocket")
    assert [model.name for model in await client.list_models()] == ["pocket"]
    assert len(models.calls) == 2


async def test_the_request_bytes_are_forwarded_as_they_came(stand: Any) -> None:
    generation = await stand.generation()
    channel = await stand.channel(await stand.gateway())
    # Field 9999 is unknown to this contract; a newer client may know it.
    unknown = b"\xfa\xf0\x04\x03abc"
    request = g.CountTokensRequest(model="pocket", prompt="a b").SerializeToString() + unknown

    answer = await channel.unary_unary(COUNT)(request)

    assert g.CountTokensResponse.FromString(answer).tokens == 2
    assert len(generation.metadata) == 1


async def test_only_the_allowed_metadata_reaches_the_service(stand: Any) -> None:
    generation = await stand.generation()
    channel = await stand.channel(await stand.gateway())
    request = g.CountTokensRequest(model="pocket", prompt="a").SerializeToString()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    await channel.unary_unary(COUNT)(
        request,
        metadata=(("traceparent", trace), ("x-request-id", "r-7"), ("authorization", "secret")),
    )

    (seen,) = generation.metadata
    assert seen["traceparent"] == trace
    assert seen["x-request-id"] == "r-7"
    assert "authorization" not in seen
    assert seen["mlxmesh-caller"] == "127.0.0.1"


async def test_a_services_status_passes_through_with_its_details(stand: Any) -> None:
    generation = await stand.generation()
    address = await stand.gateway()
    client = await stand.client(address, attempts=1)

    generation.failures = [QueueFull("every queue is full", retry_delay_s=1.5)]
    with pytest.raises(QueueFull, match="every queue is full") as caught:
        await client.complete("pocket", prompt="x")
    assert caught.value.retry_delay_s == 1.5

    generation.failures = [ModelNotFound("no model nix", field="model")]
    with pytest.raises(ModelNotFound) as not_found:
        _ = [event async for event in client.generate("nix", prompt="x")]
    assert not_found.value.field == "model"


async def test_what_a_service_did_not_mean_to_say_stays_inside(stand: Any) -> None:
    generation = await stand.generation()
    generation.break_after = 1
    channel = await stand.channel(await stand.gateway())
    request = g.GenerateRequest(model="pocket", prompt="one two").SerializeToString()

    call = channel.unary_stream(GENERATE)(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [message async for message in call]

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details())


async def test_get_tokenizer_is_not_public(stand: Any) -> None:
    models = await stand.models()
    channel = await stand.channel(await stand.gateway())

    call = channel.unary_stream("/mlxmesh.model.v1.ModelService/GetTokenizer")(b"")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    details = caught.value.trailing_metadata()["grpc-status-details-bin"]
    assert MethodNotFound.reason in str(details)
    assert models.calls == []


async def test_without_a_backend_calls_are_unavailable(stand: Any) -> None:
    client = await stand.client(await stand.gateway(), attempts=1)

    with pytest.raises(ServiceUnavailable, match="no model service is running"):
        await client.list_models()


async def test_a_client_that_goes_away_ends_its_call_at_the_service(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    client = await stand.client(await stand.gateway())

    async for event in client.generate("pocket", prompt="a b c"):
        if event.text:
            break

    async with asyncio.timeout(30):
        while not generation.interrupted:
            await asyncio.sleep(0.01)


async def test_cancel_finds_the_instance_that_runs_the_generation(stand: Any) -> None:
    first, second = await stand.generation("generation-1"), await stand.generation("generation-2")
    second.running = {"r-2"}
    client = await stand.client(await stand.gateway())

    await client.cancel("r-2")

    assert (first.cancelled, second.cancelled) == ([], ["r-2"])
    with pytest.raises(GenerationNotFound):
        await client.cancel("r-3")


async def test_cancel_ends_what_moved_wherever_it_runs(stand: Any) -> None:
    instances = [await stand.generation(f"generation-{number}") for number in (1, 2, 3)]
    instances[0].running = instances[2].running = {"r-2"}
    client = await stand.client(await stand.gateway())
    await client.cancel("r-2")
    assert [one.cancelled for one in instances] == [["r-2"], [], ["r-2"]]


async def test_cancel_waits_for_no_instance_that_is_slow_to_answer(stand: Any) -> None:
    slow, second = await stand.generation("generation-1"), await stand.generation("generation-2")
    slow.go_on.clear()
    second.running = {"r-2"}
    client = await stand.client(await stand.gateway())

    async with asyncio.timeout(30):
        await client.cancel("r-2")

    assert second.cancelled == ["r-2"]


async def test_cancel_does_not_deny_what_an_instance_could_not_answer(stand: Any) -> None:
    await stand.generation("generation-1")
    second = await stand.generation("generation-2")
    second.failures = [NoReplica("just now nobody answers")]
    client = await stand.client(await stand.gateway(), attempts=1)

    with pytest.raises(NoReplica):
        await client.cancel("r-2")
