"""A channel's window: how far a peer that streams may run ahead of who reads."""

import asyncio
from collections.abc import AsyncIterator

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.generation.v1 import generation_pb2_grpc as pb_grpc
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.serving import serving

from .conftest import SERVICE, Context, Scripted, complete, generate

MANY = 5_000
LONG_TEXT = "x" * 3_000_000


class Talkative(Scripted):
    """Writes as fast as it may, and counts."""

    written = 0

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        for sequence in range(1, MANY + 1):
            yield pb.GenerateResponse(sequence=sequence, delta=pb.Delta(text="word"))
            self.written = sequence

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:
        return pb.CompleteResponse(text=LONG_TEXT)

    async def until_held_up(self) -> int:
        """How many it wrote before it was held up."""
        before = -1
        while self.written != before or self.written == 0:
            before = self.written
            await asyncio.sleep(0.3)
        return self.written


async def test_a_peer_waits_for_its_reader_and_nothing_is_lost() -> None:
    talkative = Talkative()
    server = MeshServer(
        services=[(pb_grpc.add_GenerationServiceServicer_to_server, talkative)],
        service_names=[SERVICE],
    )
    async with serving(server) as address, open_channel(address, window_bytes=256) as channel:
        stub = pb_grpc.GenerationServiceStub(channel)
        call = stub.Generate(generate())
        assert await talkative.until_held_up() < 100
        assert [response.sequence async for response in call] == list(range(1, MANY + 1))
        # A message far larger than the window passes too.
        assert (await stub.Complete(complete())).text == LONG_TEXT
