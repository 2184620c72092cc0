"""A request_id belongs to who chose it: gateways tell services whose it is, and route by it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from mlxmesh.generation.v1 import generation_pb2 as g
from tests.fakes.public_services import FakeGeneration, generation_server

ATTACH = "/mlxmesh.generation.v1.GenerationService/AttachGeneration"
GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"


def by(caller: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (("mlxmesh-caller", caller), *more)


async def generate(channel: Any, metadata: tuple[tuple[str, str], ...], request_id: str) -> None:
    asked = g.GenerateRequest(model="pocket", prompt="a", request_id=request_id)
    async for _ in channel.unary_stream(GENERATE)(asked.SerializeToString(), metadata=metadata):
        pass


async def test_the_owner_is_told_and_cannot_be_forged(stand: Any) -> None:
    service = await stand.generation()
    channel = await stand.channel(await stand.gateway())
    await generate(channel, by("a", ("mlxmesh-owner", "forged")), "id")
    await generate(channel, (("mlxmesh-owner", "forged"),), "id")
    assert [seen["mlxmesh-owner"] for seen in service.metadata] == ["#a", "#"]


async def test_an_owners_ids_meet_at_one_instance_and_others_elsewhere(stand: Any) -> None:
    services = [await stand.generation(f"generation-{number}") for number in range(3)]
    channel = await stand.channel(await stand.gateway())
    for caller in [*"abcdefgh"] * 2:
        await generate(channel, by(caller), "id")
    owners = [[seen["mlxmesh-owner"] for seen in service.metadata] for service in services]
    # Both of each at the same instance, and not all of them at one.
    assert all(each.count(owner) == 2 for each in owners for owner in each)
    assert sum(bool(each) for each in owners) > 1


async def test_a_reader_goes_on_while_its_instance_leaves(stand: Any) -> None:
    service = SlowAttach()
    instance = await stand.announce("generation", "generation-1", generation_server(service))
    other = await stand.generation("generation-2")
    other.go_on.clear()
    channel = await stand.channel(await stand.gateway())
    asked = g.AttachGenerationRequest(request_id="id").SerializeToString()
    call = channel.unary_stream(ATTACH)(asked)
    await service.asked.wait()
    await stand.registry.deregister(instance)
    await asyncio.sleep(0.5)  # the gateway has let go of it, and has no message yet
    service.may_send.set()
    messages: list[Any] = []
    async with asyncio.timeout(30):
        while len(messages) < 3:
            messages.append(await call.read())
    sequences = [
        g.AttachGenerationResponse.FromString(message).message.sequence for message in messages
    ]
    assert sequences == [1, 2, 3]


class SlowAttach(FakeGeneration):
    """Keeps one generation, and gives the rest of it when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may_send = asyncio.Event()

    async def AttachGeneration(
        self, request: Any, context: Any
    ) -> AsyncIterator[g.AttachGenerationResponse]:
        self.asked.set()
        await self.may_send.wait()
        for sequence in (1, 2, 3):
            message = g.GenerateResponse(sequence=sequence)
            yield g.AttachGenerationResponse(message=message)
            await asyncio.sleep(0.1)
