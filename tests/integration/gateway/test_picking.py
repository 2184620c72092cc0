"""Instances that fail, hang and recover behind a real gateway: who gets the calls, how often."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import DeadlineExceeded, Internal, InvalidArgument, MeshError
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.public_services import FakeGeneration
from tests.fakes.waiting import until

HEDGE = (("mlxmesh-hedge-ms", "50"),)


class Slow(FakeGeneration):
    """Gives no first message until told to; everything else is the fake's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.may_answer = asyncio.Event()
        self.gave_up = 0

    async def _wait(self) -> None:
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.gave_up += 1
            raise

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[g.GenerateResponse]:
        await self._wait()
        async for message in super().Generate(request, context):
            yield message

    async def Complete(self, request: Any, context: Any) -> g.CompleteResponse:
        await self._wait()
        return await super().Complete(request, context)


def ask(**fields: Any) -> g.GenerateRequest:
    return g.GenerateRequest(model="pocket", prompt="a b", **fields)


async def status_of(client: MeshClient, instance_id: str) -> t.Instance:
    (one,) = [one for one in await client.mesh_status() if one.instance_id == instance_id]
    return one


async def test_a_slow_stream_gets_a_second_instance_when_asked_for(stand: Any) -> None:
    slow = await stand.generation("generation-1", servicer=Slow("generation-1"))
    await stand.generation("generation-2")
    async with open_channel(await stand.gateway()) as channel:
        call = GenerationServiceStub(channel).Generate(ask(), metadata=HEDGE)
        messages = [message async for message in call]

    assert messages[0].started.engine_id == "generation-2"
    assert [message.sequence for message in messages] == [1, 2, 3, 4]
    await until(lambda: slow.gave_up == 1)


async def test_a_slow_answer_gets_a_second_instance_when_asked_for(stand: Any) -> None:
    slow = await stand.generation("generation-1", servicer=Slow("generation-1"))
    other = await stand.generation("generation-2")
    async with open_channel(await stand.gateway()) as channel:
        request = g.CompleteRequest(generation=ask())
        response = await GenerationServiceStub(channel).Complete(request, metadata=HEDGE)

    assert response.text == "a b"
    assert len(other.requests) == 1
    await until(lambda: slow.gave_up == 1)


async def test_nobody_hedges_unasked(stand: Any) -> None:
    slow = await stand.generation("generation-1", servicer=Slow("generation-1"))
    other = await stand.generation("generation-2")
    async with open_channel(await stand.gateway()) as channel:
        call = GenerationServiceStub(channel).Generate(ask())
        await asyncio.sleep(0.2)
        slow.may_answer.set()
        messages = [message async for message in call]

    assert messages[0].started.engine_id == "generation-1"
    assert other.requests == []


@pytest.mark.parametrize(
    ("request_", "header"),
    [(ask(), "0"), (ask(), "60001"), (ask(), "soon"), (ask(request_id="r-1"), "50")],
)
async def test_illegal_hedging_is_refused_by_name(
    stand: Any, request_: g.GenerateRequest, header: str
) -> None:
    generation = await stand.generation()
    metadata = (("mlxmesh-hedge-ms", header),)
    async with open_channel(await stand.gateway()) as channel:
        stub = GenerationServiceStub(channel)
        with pytest.raises(InvalidArgument) as caught:
            await stub.Complete(g.CompleteRequest(generation=request_), metadata=metadata)
        assert caught.value.field == "mlxmesh-hedge-ms"
        with pytest.raises(InvalidArgument):
            await stub.Generate(request_, metadata=metadata).read()
    assert generation.requests == []


async def test_all_tries_together_have_the_time_of_the_one_call(stand: Any) -> None:
    class DiesLate(FakeGeneration):
        async def Complete(self, request: Any, context: Any) -> g.CompleteResponse:
            self.requests.append(request.generation)
            await asyncio.sleep(1.0)
            # As a connection that breaks: a status without the details of a service.
            context.set_trailing_metadata(())
            return await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    dies = DiesLate("generation-1")
    await stand.generation("generation-1", servicer=dies)
    other = await stand.generation("generation-2")
    client = await stand.client(await stand.gateway(), attempts=1)

    await client.complete("pocket", prompt="a", timeout_s=10)

    assert len(dies.requests) == 1
    (remaining_s,) = other.remaining_s
    assert remaining_s is not None
    assert remaining_s < 9.5


async def test_a_call_that_takes_its_whole_time_is_not_tried_again(stand: Any) -> None:
    await stand.generation("generation-1", servicer=Slow("generation-1"))
    other = await stand.generation("generation-2")
    client = await stand.client(await stand.gateway(), attempts=1)

    with pytest.raises(DeadlineExceeded):
        await client.complete("pocket", prompt="a", timeout_s=0.3)
    assert other.requests == []


async def test_an_instance_that_fails_is_ejected_and_found_again_when_it_is_well(
    stand: Any,
) -> None:
    ill, well = await stand.generation("generation-1"), await stand.generation("generation-2")
    ill.failures = [ValueError("a bug") for _ in range(5)]
    client = await stand.client(await stand.gateway(), attempts=1)

    async def ask_often(times: int) -> int:
        failed = 0
        for _ in range(times):
            try:
                await client.complete("pocket", prompt="a")
            except Internal:
                failed += 1
        return failed

    assert await ask_often(20) == 5
    assert len(well.requests) >= 1
    async with asyncio.timeout(20):
        while (await status_of(client, "generation-1")).breaker.state != t.BREAKER_STATE_CLOSED:
            assert await ask_often(1) == 0
    assert len(ill.requests) > 5


async def test_the_last_instance_is_used_whatever_its_breaker_says(stand: Any) -> None:
    ill = await stand.generation("generation-1")
    ill.failures = [ValueError("a bug") for _ in range(5)]
    client = await stand.client(await stand.gateway(), attempts=1)
    for _ in range(5):
        with pytest.raises(Internal):
            await client.complete("pocket", prompt="a")
    assert (await status_of(client, "generation-1")).breaker.failures == 5
    assert (await client.complete("pocket", prompt="a")).text == "a"
    assert (await status_of(client, "generation-1")).breaker.state == t.BREAKER_STATE_CLOSED


async def test_a_dead_instance_is_asked_once_and_then_left_alone(stand: Any) -> None:
    dead = Instance("generation", "generation-0", "127.0.0.1:1", pid=1)
    await stand.registry.register(dead)
    await stand.generation("generation-1")
    client = await stand.client(await stand.gateway(), attempts=1)
    await client.complete("pocket", prompt="a")

    seen = await status_of(client, "generation-0")
    assert seen.breaker.state in (t.BREAKER_STATE_OPEN, t.BREAKER_STATE_HALF_OPEN)
    assert seen.breaker.failures == 1


async def test_when_every_instance_is_dead_the_call_ends_soon(stand: Any) -> None:
    for number in (1, 2, 3, 4):
        dead = Instance("generation", f"generation-{number}", f"127.0.0.1:{number}", pid=1)
        await stand.registry.register(dead)
    client = await stand.client(await stand.gateway(), attempts=1)
    with pytest.raises(MeshError) as caught:
        await client.complete("pocket", prompt="a")
    assert caught.value.retryable
