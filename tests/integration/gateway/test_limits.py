"""What the gateway lets in, and how it says no."""

import asyncio
from typing import Any

import grpc
import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MessageTooLarge,
    MethodNotFound,
    TooManyRequests,
)

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"


@pytest.mark.parametrize(
    ("settings", "timeout_s", "expected_s"),
    [
        ({"default_deadline_s": 7}, None, 7),
        ({"default_deadline_s": 7}, 3, 3),
        ({"max_deadline_s": 5}, 100, 5),
        ({"max_deadline_s": 5}, None, 5),
    ],
)
async def test_the_service_learns_how_long_the_call_may_take(
    stand: Any, settings: dict[str, float], timeout_s: float | None, expected_s: float
) -> None:
    generation = await stand.generation()
    client = await stand.client(await stand.gateway(**settings))

    await client.complete("pocket", prompt="a", timeout_s=timeout_s)

    (remaining_s,) = generation.remaining_s
    assert remaining_s is not None
    # gRPC rounds up on the wire.
    assert expected_s - 2 < remaining_s < expected_s + 0.2


async def test_the_default_deadline_ends_a_call_that_set_none(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    client = await stand.client(await stand.gateway(default_deadline_s=0.3))

    with pytest.raises(DeadlineExceeded):
        _ = [event async for event in client.generate("pocket", prompt="a b")]


async def test_too_many_calls_are_refused_and_told_when_to_come_back(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    client = await stand.client(await stand.gateway(max_concurrent_rpcs=1), attempts=1)
    running = client.generate("pocket", prompt="a b")
    await anext(running)

    with pytest.raises(TooManyRequests) as caught:
        await client.complete("pocket", prompt="a")

    assert caught.value.retry_delay_s
    generation.go_on.set()
    assert [event async for event in running][-1].finished is not None


async def test_one_caller_leaves_places_to_others(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    channel = await stand.channel(await stand.gateway(max_concurrent_rpcs=8))

    def start(caller: str) -> Any:
        metadata = (("mlxmesh-caller", caller),)
        request = g.GenerateRequest(model="pocket", prompt="a b").SerializeToString()
        return channel.unary_stream(GENERATE)(request, metadata=metadata)

    greedy = [start("greedy") for _ in range(9)]
    first = await asyncio.gather(*(call.read() for call in greedy), return_exceptions=True)
    refused = [each for each in first if isinstance(each, grpc.aio.AioRpcError)]
    assert [error.code() for error in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert all("RetryInfo" in _details(error) for error in refused)
    assert await start("other").read()

    seen = [metadata["mlxmesh-caller"] for metadata in generation.metadata]
    assert sorted(seen) == ["greedy"] * 7 + ["other"]
    generation.go_on.set()


@pytest.mark.parametrize("path", [GENERATE, COMPLETE])
async def test_an_illegal_callers_name_is_refused(stand: Any, path: str) -> None:
    generation = await stand.generation()
    channel = await stand.channel(await stand.gateway())
    call = channel.unary_stream(path)(b"", metadata=(("mlxmesh-caller", "a b"),))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "mlxmesh-caller" in (caught.value.details() or "")
    assert generation.metadata == []


async def test_a_message_above_the_limit_is_refused_whole(stand: Any) -> None:
    generation = await stand.generation()
    client = await stand.client(await stand.gateway(max_message_bytes=1000))

    for size in (1001, 5000):
        with pytest.raises(MessageTooLarge):
            await client.complete("pocket", prompt="a" * size)

    assert generation.requests == []


async def test_rules_are_checked_before_any_service_sees_the_call(stand: Any) -> None:
    generation = await stand.generation()
    client = await stand.client(await stand.gateway())

    with pytest.raises(InvalidArgument) as unary:
        await client.complete("pocket", prompt="a", top_p=2.0)
    with pytest.raises(InvalidArgument) as stream:
        _ = [event async for event in client.generate("../etc/passwd", prompt="a")]

    assert unary.value.field == "generation.sampling.top_p"
    assert stream.value.field == "model"
    assert generation.metadata == []


@pytest.mark.parametrize("body", [b"\xff\xff\xff\xff", b"\x0a\x02\xc3\x28"])
async def test_bytes_that_are_no_message_are_refused_with_a_reason(stand: Any, body: bytes) -> None:
    channel = await stand.channel(await stand.gateway())
    call = channel.unary_stream(GENERATE)(body)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "MALFORMED_MESSAGE" in _details(caught.value)


async def test_a_method_that_is_not_there_says_so(stand: Any) -> None:
    channel = await stand.channel(await stand.gateway())

    for path in ("/mlxmesh.engine.v1.EngineService/GetEngineInfo", "/x.Y/Z"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert MethodNotFound.reason in _details(caught.value)


async def test_metadata_above_the_limit_is_refused(stand: Any) -> None:
    generation = await stand.generation()
    channel = await stand.channel(await stand.gateway())
    inner = g.GenerateRequest(model="pocket", prompt="a")
    request = g.CompleteRequest(generation=inner).SerializeToString()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(COMPLETE)(request, metadata=(("x-large", "a" * 40_000),))

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert generation.requests == []


async def test_listening_beyond_loopback_works_where_it_is_allowed(stand: Any) -> None:
    await stand.models()
    address = await stand.gateway(listen="0.0.0.0:0", insecure_listen=True)
    client = await stand.client(f"127.0.0.1:{address.rpartition(':')[2]}")
    assert await client.list_models() == []


async def test_one_client_may_have_256_streams_at_one_time(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    client = await stand.client(await stand.gateway())
    streams = [client.generate("pocket", prompt="a b") for _ in range(256)]

    await asyncio.gather(*(anext(stream) for stream in streams))

    assert len(generation.requests) == 256
    generation.go_on.set()
    for stream in streams:
        assert [event async for event in stream][-1].finished is not None


async def test_streams_above_the_limit_of_a_connection_wait_for_their_turn(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    address = await stand.gateway(max_streams_per_connection=1)
    client, other = await stand.client(address), await stand.client(address)
    running = client.generate("pocket", prompt="a b")
    await anext(running)
    waiting = asyncio.create_task(client.complete("pocket", prompt="waits"))
    # Another connection has its own limit; by its answer the waiting call would have come through.
    await other.complete("pocket", prompt="other")

    assert [request.prompt for request in generation.requests] == ["a b", "other"]

    generation.go_on.set()
    assert [event async for event in running][-1].finished is not None
    assert (await waiting).text == "waits"


def _details(error: grpc.aio.AioRpcError) -> str:
    return str(error.trailing_metadata()["grpc-status-details-bin"])
