"""The relay between a gateway and a generation instance, as clients and operators see it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_gateway.forwarding.generate_stream import GENERATE
from mlxmesh_gateway.forwarding.relay_link import RelayLink
from mlxmesh_shared.errors import DeadlineExceeded, QueueFull
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.public_services import GENERATION, FakeGeneration, generation_server
from tests.fakes.serving import serving
from tests.fakes.waiting import until

from .conftest import Stand

STREAMS = 32
WORDS = " ".join(f"w{number}" for number in range(100))


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    """Whose generation instances offer relays."""
    async with AsyncExitStack() as stack:
        yield Stand(stack, tmp_path)


async def text_of(stream: Any) -> str:
    return "".join([event.text async for event in stream])


async def test_all_streams_of_a_pair_travel_on_one_call(stand: Stand) -> None:
    generation = await stand.generation()
    client = await stand.client(await stand.gateway())

    streams = [client.generate("pocket", prompt=f"{number} {WORDS}") for number in range(STREAMS)]
    texts = await asyncio.gather(*map(text_of, streams))

    assert texts == [f"{number} {WORDS} " for number in range(STREAMS)]
    assert generation.relays == 1
    finished = g.Finished(finish_reason=g.FINISH_REASON_STOP, total_usage=g.Usage())
    generation.kept["id"] = [g.GenerateResponse(sequence=1, finished=finished)]
    assert len([event async for event in client.attach("id")]) == 1
    assert generation.relays == 1


async def test_an_older_instance_gets_a_call_for_each_stream(stand: Stand) -> None:
    stand.relays = False
    older = await stand.generation("generation-1")
    client = await stand.client(await stand.gateway(), attempts=1)
    assert await text_of(client.generate("pocket", prompt="a b")) == "a b "
    assert older.relays == 0


async def test_streams_move_between_instances_with_and_without_relays(stand: Stand) -> None:
    newer = await stand.generation("generation-1")
    stand.relays = False
    older = await stand.generation("generation-2")
    client = await stand.client(await stand.gateway(), attempts=1)
    for broken, other in ((older, newer), (newer, older)):
        broken.truncate_after, other.truncate_after = 1, None
        streams = [client.generate("pocket", prompt=f"{number} b") for number in range(8)]
        assert await asyncio.gather(*map(text_of, streams)) == [f"{n} b " for n in range(8)]
        assert other.resumed
        assert not broken.resumed
        other.resumed.clear()
    assert (newer.relays, older.relays) == (1, 0)


async def test_a_large_request_gets_a_call_of_its_own(stand: Stand) -> None:
    generation = await stand.generation()
    client = await stand.client(await stand.gateway())
    large = "x" * 70_000

    assert await text_of(client.generate("pocket", prompt=large)) == f"{large} "
    assert generation.relays == 0
    assert await text_of(client.generate("pocket", prompt="a")) == "a "
    assert generation.relays == 1


async def test_a_client_that_leaves_ends_its_stream_alone(stand: Stand) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    client = await stand.client(await stand.gateway())
    leaving, staying = (client.generate("pocket", prompt="a b") for _ in range(2))
    for stream in (leaving, staying):
        assert [(await anext(stream)).text for _ in range(2)] == ["", "a "]

    await leaving.aclose()
    await until(lambda: generation.interrupted == 1)
    generation.go_on.set()
    assert await text_of(staying) == "b "
    assert generation.interrupted == 1


async def test_a_deadline_ends_its_stream_alone(stand: Stand) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    client = await stand.client(await stand.gateway())
    staying = client.generate("pocket", prompt="a b")
    assert [(await anext(staying)).text for _ in range(2)] == ["", "a "]
    with pytest.raises(DeadlineExceeded):
        await text_of(client.generate("pocket", prompt="a b", timeout_s=0.2))
    generation.go_on.set()
    assert await text_of(staying) == "b "


async def test_a_failure_keeps_its_details_through_the_gateway(stand: Stand) -> None:
    generation = await stand.generation()
    generation.failures = [QueueFull("full", field="model", retry_delay_s=1.5)]
    client = await stand.client(await stand.gateway(), attempts=1)
    with pytest.raises(QueueFull, match="full") as caught:
        await text_of(client.generate("pocket", prompt="a"))
    assert (caught.value.field, caught.value.retry_delay_s) == ("model", 1.5)


async def test_each_stream_has_its_own_metadata(stand: Stand) -> None:
    generation = await stand.generation()
    address = await stand.gateway()
    async with open_channel(address) as channel:
        stub = GenerationServiceStub(channel)
        for caller in ("alice", "bob"):
            metadata = (("mlxmesh-caller", caller),)
            request = g.GenerateRequest(model="pocket", prompt="a")
            assert [response async for response in stub.Generate(request, metadata=metadata)]
    assert [each["mlxmesh-caller"] for each in generation.metadata] == ["alice", "bob"]
    assert [each["mlxmesh-owner"] for each in generation.metadata] == ["#alice", "#bob"]


async def test_a_silent_client_costs_only_itself(stand: Stand) -> None:
    """The messages that it has not read wait at the instance: the gateway holds a few of them."""
    long = " ".join(["word" * 250] * 2000)  # 2 MB in 2,000 messages
    generation = Chatty(long.split())
    await stand.announce("generation", "generation-1", generation_server(generation))
    address = await stand.gateway()
    async with open_channel(address, window_bytes=1024) as channel:
        request = g.GenerateRequest(model="pocket", prompt="silent")
        silent = aiter(GenerationServiceStub(channel).Generate(request))
        await anext(silent)
        client = await stand.client(address)
        others = [client.generate("pocket", prompt="a b") for _ in range(STREAMS - 1)]
        assert await asyncio.gather(*map(text_of, others)) == ["a b "] * (STREAMS - 1)
        written = -1
        while written != generation.written:
            written = generation.written
            await asyncio.sleep(0.2)
        # A few are on their way to the client; without a window all of them would be.
        assert written < 500
        rest = [response async for response in silent]
    assert [response.sequence for response in rest] == list(range(2, 2003))


class Chatty(FakeGeneration):
    """Answers one prompt with many words, as fast as it may, and counts what it has written."""

    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self.written = 0
        self._words = words

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[g.GenerateResponse]:
        if request.prompt != "silent":
            async for response in super().Generate(request, context):
                yield response
            return
        yield g.GenerateResponse(sequence=1, started=g.Started(request_id="r"))
        for sequence, word in enumerate(self._words, 2):
            yield g.GenerateResponse(sequence=sequence, delta=g.Delta(text=word))
            self.written += 1
        yield g.GenerateResponse(
            sequence=len(self._words) + 2, finished=g.Finished(total_usage=g.Usage())
        )


async def test_the_death_of_an_instance_resumes_all_its_streams(stand: Stand) -> None:
    dying = FakeGeneration("generation-1")
    dying.go_on.clear()
    server = generation_server(dying)
    await stand.announce("generation", "generation-1", server)
    client = await stand.client(await stand.gateway(), attempts=1)
    streams = [client.generate("pocket", prompt=f"{number} b c") for number in range(STREAMS)]
    for stream in streams:
        await anext(stream)
        await anext(stream)

    other = await stand.generation("generation-2")
    await server.drain(grace_s=0, settle_s=0)

    assert await asyncio.gather(*map(text_of, streams)) == ["b c "] * STREAMS
    assert len(other.resumed) == STREAMS
    assert other.relays == 1


async def test_an_instance_that_left_loses_its_relay_after_its_last_stream(stand: Stand) -> None:
    leaving = FakeGeneration("generation-1")
    leaving.go_on.clear()
    instance = await stand.announce("generation", "generation-1", generation_server(leaving))
    client = await stand.client(await stand.gateway())
    stream = client.generate("pocket", prompt="a b")
    await anext(stream)
    await stand.generation("generation-2")
    await stand.registry.deregister(instance)
    await asyncio.sleep(0.1)
    assert leaving.open_relays == 1

    leaving.go_on.set()
    assert await text_of(stream) == "a b "
    await until(lambda: leaving.open_relays == 0)


async def test_an_old_relay_gets_no_new_streams_and_ends_after_its_last(stand: Stand) -> None:
    generation = FakeGeneration()
    generation.go_on.clear()
    server = generation_server(generation)
    async with serving(server) as address, open_channel(address) as channel:
        link = RelayLink(channel, max_age_s=0.0)
        request = g.GenerateRequest(model="pocket", prompt="a b").SerializeToString()
        first, second = (link.start(GENERATE, request) for _ in range(2))
        for stream in (first, second):
            assert [bool(await stream.read()) for _ in range(2)] == [True, True]
        assert generation.open_relays == 2

        second.cancel()
        await until(lambda: generation.interrupted == 1)
        assert generation.open_relays == 2
        generation.go_on.set()
        while await first.read() is not grpc.aio.EOF:
            pass
        await until(lambda: generation.open_relays == 1)
        await link.close()


async def test_a_relay_is_opened_again_after_its_end(stand: Stand) -> None:
    generation = await stand.generation()
    client = await stand.client(await stand.gateway())
    assert await text_of(client.generate("pocket", prompt="a")) == "a "
    generation.end_relays()
    await until(lambda: generation.open_relays == 0)
    assert await text_of(client.generate("pocket", prompt="a")) == "a "
    assert generation.relays == 2


@pytest.mark.parametrize("noise", [b"\xff\xff\xff", b"\x0a\x05ab"])
async def test_a_malformed_message_of_an_instance_is_its_loss(stand: Stand, noise: bytes) -> None:
    go_on = asyncio.Event()
    await stand.announce("generation", "generation-1", noisy_server(noise, go_on))
    client = await stand.client(await stand.gateway(), attempts=1)
    stream = client.generate("pocket", prompt="a b")
    assert [(await anext(stream)).text for _ in range(2)] == ["", "a "]
    other = await stand.generation("generation-2")
    go_on.set()
    assert await text_of(stream) == "b "
    assert len(other.resumed) == 1


def noisy_server(noise: bytes, go_on: asyncio.Event) -> MeshServer:
    """Begins a stream on its relay, then sends noise."""

    async def relay(requests: AsyncIterator[bytes], context: Any) -> None:
        async for encoded in requests:
            [opened] = g.RelayRequest.FromString(encoded).open
            started = g.Started(request_id="r", model="pocket", model_version=1)
            for message in (
                g.GenerateResponse(sequence=1, started=started),
                g.GenerateResponse(sequence=2, delta=g.Delta(text="a ", token_ids=[0])),
            ):
                output = g.StreamOutput(
                    stream_id=opened.stream_id, message=message.SerializeToString()
                )
                await context.write(g.RelayResponse(outputs=[output]).SerializeToString())
            await go_on.wait()
            await context.write(noise)

    handlers = {"Relay": grpc.stream_stream_rpc_method_handler(relay)}
    handler = grpc.method_handlers_generic_handler(GENERATION, handlers)
    return MeshServer(services=[], service_names=[GENERATION], generic_handlers=(handler,))
