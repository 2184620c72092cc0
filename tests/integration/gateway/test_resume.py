"""Streams whose generation instance, or whose gateway, is lost on the way."""

import asyncio
from typing import Any

import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_client import GenerationEvent, GenerationNotFound, MeshClient, ServiceUnavailable
from mlxmesh_shared.errors import EngineLost, NoReplica
from tests.fakes.public_services import FakeGeneration, generation_server

PROMPT = "a b c d"


def text_of(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events)


async def begun(client: MeshClient, **options: Any) -> tuple[Any, list[GenerationEvent]]:
    """A stream, and its first two events."""
    stream = client.generate("pocket", prompt=PROMPT, **options)
    return stream, [await anext(stream), await anext(stream)]


async def lost_after_two(stand: Any, **settings: Any) -> tuple[Any, list[GenerationEvent]]:
    """A stream whose only instance is gone after its second message."""
    servicer = FakeGeneration()
    servicer.go_on.clear()
    server = generation_server(servicer)
    await stand.announce("generation", "generation-1", server)
    client = await stand.client(await stand.gateway(**settings), attempts=1)
    stream, events = await begun(client)
    await server.drain(grace_s=0, settle_s=0)
    return stream, events


async def test_a_stream_goes_on_at_another_instance(stand: Any) -> None:
    stream, events = await lost_after_two(stand)
    other = await stand.generation("generation-2")
    events += [event async for event in stream]

    assert text_of(events) == "a b c d "
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6]
    finished = events[-1].finished
    assert finished is not None
    assert finished.timings.resumptions == 1
    (resumed,) = other.resumed
    assert resumed.generation.model == "pocket@1"
    assert resumed.generation.request_id == "r-1"
    assert resumed.generation.sampling.seed == 7
    assert resumed.generation.prompt == PROMPT
    assert list(resumed.outputs) == [g.ReceivedOutput(token_ids=[0], text_characters=2)]
    assert (resumed.after_sequence, resumed.resumptions) == (2, 0)


async def test_several_outputs_go_on_each_where_it_was(stand: Any) -> None:
    servicer = FakeGeneration()
    await stand.announce("generation", "generation-1", generation_server(servicer))
    other = await stand.generation("generation-2")
    servicer.truncations = other.truncations = [2]
    stub = GenerationServiceStub(await stand.channel(await stand.gateway()))
    request = g.GenerateRequest(model="pocket", prompt=PROMPT, n=4)
    messages = [message async for message in stub.Generate(request)]

    assert [message.sequence for message in messages] == [*range(1, 22)]
    for index in range(4):
        deltas = [each.delta for each in messages if each.HasField("delta")]
        own = [delta for delta in deltas if delta.index == index]
        assert [list(delta.token_ids) for delta in own] == [[0], [1], [2], [3]]
    ends = [message.finished for message in messages if message.HasField("finished")]
    assert [end.index for end in ends] == [0, 1, 2, 3]
    assert [end.HasField("total_usage") for end in ends] == [False, False, False, True]
    (resumed,) = servicer.resumed + other.resumed
    known = [0, 1]
    assert list(resumed.outputs) == [
        g.ReceivedOutput(token_ids=known, text_characters=4),
        g.ReceivedOutput(token_ids=known, index=1, tool_calls=1, arguments_characters=4),
        g.ReceivedOutput(token_ids=known, index=2, reasoning_characters=4),
        g.ReceivedOutput(token_ids=known, index=3, text_characters=4),
    ]


async def test_an_instance_that_is_not_ready_yet_is_asked_again(stand: Any) -> None:
    stream, events = await lost_after_two(stand)
    other = FakeGeneration()
    other.failures = [NoReplica("starting"), ServiceUnavailable("starting")]
    await stand.announce("generation", "generation-2", generation_server(other))
    events += [event async for event in stream]

    assert text_of(events) == "a b c d "
    assert len(other.resumed) == 3


async def test_a_stream_that_ends_short_goes_on_elsewhere(stand: Any) -> None:
    first, second = await stand.generation("generation-1"), await stand.generation("generation-2")
    first.truncations = second.truncations = [2, 3]
    client = await stand.client(await stand.gateway(), attempts=1)
    events = [event async for event in client.generate("pocket", prompt=PROMPT)]

    assert text_of(events) == "a b c d "
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6]
    assert len(first.requests + second.requests) == 1


async def test_what_a_service_says_of_the_generation_ends_it(stand: Any) -> None:
    stream, _ = await lost_after_two(stand)
    other = await stand.generation("generation-2")
    other.failures = [GenerationNotFound("no")]

    with pytest.raises(GenerationNotFound):
        await anext(stream)


async def test_a_stream_that_ends_every_instance_is_given_up(stand: Any) -> None:
    servicers = [await stand.generation(f"generation-{index}") for index in (1, 2)]
    for servicer in servicers:
        servicer.truncate_after = 1
    client = await stand.client(await stand.gateway(), attempts=1)
    stream, events = await begun(client)

    with pytest.raises(ServiceUnavailable):
        await anext(stream)
    assert text_of(events) == "a "
    assert sum(len(servicer.resumed) for servicer in servicers) == 3


async def test_a_long_stream_is_resumed_from_its_end(stand: Any) -> None:
    prompt = " ".join("w" * (1 + index % 3) for index in range(2500))
    servicer = FakeGeneration()
    await stand.announce("generation", "generation-1", generation_server(servicer))
    other = await stand.generation("generation-2")
    servicer.truncations = other.truncations = [2300]
    client = await stand.client(await stand.gateway(), attempts=1)
    text, sequences = "", []
    async for event in client.generate("pocket", prompt=prompt):
        text += event.text
        sequences.append(event.sequence)

    assert text == prompt + " "
    assert sequences == list(range(1, 2503))
    (resumed,) = servicer.resumed + other.resumed
    (output,) = resumed.outputs
    assert list(output.token_ids) == list(range(2300))
    assert output.text_characters == len(" ".join(prompt.split()[:2300])) + 1


async def test_repeats_of_a_request_id_meet_at_one_instance(stand: Any) -> None:
    servicers = [await stand.generation(f"generation-{index}") for index in range(4)]
    clients = [await stand.client(await stand.gateway()) for _ in range(2)]
    for client in clients:
        for number in range(8):
            await client.complete("pocket", prompt="a", request_id=f"id-{number}")
            async for _ in client.generate("pocket", prompt="a", request_id=f"id-{number}"):
                pass

    seen = [{request.request_id for request in servicer.requests} for servicer in servicers]
    assert sum(map(len, seen)) == 8
    assert sum(1 for ids in seen if ids) > 1
    assert sum(len(servicer.requests) for servicer in servicers) == 32


def kept(count: int) -> list[g.GenerateResponse]:
    messages = [
        g.GenerateResponse(sequence=number, delta=g.Delta(text=f"{number} "))
        for number in range(1, count)
    ]
    return [
        *messages,
        g.GenerateResponse(sequence=count, finished=g.Finished(total_usage=g.Usage())),
    ]


async def test_whoever_keeps_a_generation_answers_an_attach(stand: Any) -> None:
    servicers = [await stand.generation(f"generation-{index}") for index in (1, 2)]
    servicers[0].go_on.clear()  # says nothing about what it does not have
    servicers[1].kept["mine"] = kept(4)
    client = await stand.client(await stand.gateway())

    events = [event async for event in client.attach("mine", after_sequence=1)]
    assert [event.sequence for event in events] == [2, 3, 4]
    assert servicers[0].interrupted == 0


async def test_attaching_to_what_nobody_keeps(stand: Any) -> None:
    for index in (1, 2):
        await stand.generation(f"generation-{index}")
    client = await stand.client(await stand.gateway())

    with pytest.raises(GenerationNotFound):
        _ = [event async for event in client.attach("none")]


async def test_the_loss_of_a_gateway_goes_unnoticed(stand: Any) -> None:
    servicer = await stand.generation()
    servicer.go_on.clear()
    other = await stand.gateway()
    async with stand.running_gateway(drain_grace_s=0.01) as (address, stop):
        client = await stand.client(address, gateways=[other], attempts=1)
        stream, events = await begun(client)
        (request,) = servicer.requests
        servicer.kept[request.request_id] = kept(5)
        stop.set()
        events += [event async for event in stream]

    assert request.request_id
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]


async def test_an_answer_of_the_mesh_is_not_asked_for_again(stand: Any) -> None:
    servicer = await stand.generation()
    servicer.failures = [EngineLost("gone")]
    client = await stand.client(await stand.gateway(), gateways=[await stand.gateway()], attempts=1)

    with pytest.raises(EngineLost):
        _ = [event async for event in client.generate("pocket", prompt="a")]
    assert len(servicer.requests) == 1


@pytest.mark.parametrize("request_id", [None, "mine"])
async def test_leaving_early_cancels_what_has_no_name(stand: Any, request_id: str | None) -> None:
    servicer = await stand.generation()
    servicer.go_on.clear()
    client = await stand.client(await stand.gateway(), gateways=[await stand.gateway()])
    options = {"request_id": request_id} if request_id else {}
    stream, _ = await begun(client, **options)
    (request,) = servicer.requests
    servicer.running = {request.request_id}
    async with asyncio.timeout(10):
        await stream.aclose()

    assert servicer.cancelled == ([] if request_id else [request.request_id])
