"""A real server of a real contract, whose behaviour each test chooses."""

import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from grpc import aio

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.generation.v1 import generation_pb2_grpc as pb_grpc
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions

SERVICE = "mlxmesh.generation.v1.GenerationService"
Context = aio.ServicerContext[Any, Any]


async def _nothing(_request: Any, _context: Context) -> None:
    pass


@dataclass
class Scripted(pb_grpc.GenerationServiceServicer):
    """Answers; before it does, and after two messages of a stream, it does what the test says."""

    act: Callable[[Any, Context], Awaitable[None]] = _nothing
    requests: list[Any] = field(default_factory=list[Any])

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        for sequence in (1, 2):
            yield pb.GenerateResponse(sequence=sequence)
        await self.act(request, context)
        yield pb.GenerateResponse(sequence=3)

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:
        self.requests.append(request)
        await self.act(request, context)
        return pb.CompleteResponse(text="done")

    async def AttachGeneration(
        self, request: pb.AttachGenerationRequest, context: Context
    ) -> AsyncIterator[pb.AttachGenerationResponse]:
        yield pb.AttachGenerationResponse()

    async def ResumeGeneration(
        self, request: pb.ResumeGenerationRequest, context: Context
    ) -> AsyncIterator[pb.ResumeGenerationResponse]:
        yield pb.ResumeGenerationResponse()

    async def GetOutputFormat(
        self, request: pb.GetOutputFormatRequest, context: Context
    ) -> pb.GetOutputFormatResponse:
        return pb.GetOutputFormatResponse()

    async def Relay(
        self, request_iterator: AsyncIterator[pb.RelayRequest], context: Context
    ) -> AsyncIterator[pb.RelayResponse]:
        yield pb.RelayResponse()

    async def GetGeneration(
        self, request: pb.GetGenerationRequest, context: Context
    ) -> pb.GetGenerationResponse:
        self.requests.append(request)
        await self.act(request, context)
        return pb.GetGenerationResponse()

    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, context: Context
    ) -> pb.CancelGenerationResponse:
        self.requests.append(request)
        await self.act(request, context)
        return pb.CancelGenerationResponse()

    async def CountTokens(
        self, request: pb.CountTokensRequest, context: Context
    ) -> pb.CountTokensResponse:
        self.requests.append(request)
        await self.act(request, context)
        return pb.CountTokensResponse(tokens=1)


@dataclass
class Served:
    """A running server and a channel to it."""

    server: MeshServer
    servicer: Scripted
    channel: aio.Channel
    stub: pb_grpc.GenerationServiceStub


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncGenerator[Serve, None]:
    running: list[Served] = []

    async def start(options: ServerOptions | None = None) -> Served:
        servicer = Scripted()
        server = MeshServer(
            services=[(pb_grpc.add_GenerationServiceServicer_to_server, servicer)],
            service_names=[SERVICE],
            options=options or ServerOptions(),
            name="generation",
        )
        address = await server.start()
        await server.set_serving()
        channel = open_channel(address)
        stub = pb_grpc.GenerationServiceStub(channel)
        running.append(Served(server, servicer, channel, stub))
        return running[-1]

    yield start
    for served in running:
        await served.channel.close()
        await served.server.drain(grace_s=0, settle_s=0)


def generate(prompt: str = "hi", **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="pocket", prompt=prompt, **fields)


def complete(prompt: str = "hi") -> pb.CompleteRequest:
    return pb.CompleteRequest(generation=generate(prompt))


# A real agent is not to be had everywhere; `make consul` builds one.
_OF_REAL_CONSUL = ["test_real_consul.py", "test_consul_cluster.py"]
collect_ignore = [] if "CONSUL_BIN" in os.environ else _OF_REAL_CONSUL


@pytest.fixture(autouse=True)
def the_log_level_stays() -> Iterator[None]:
    """Settings that are followed change the log level of the whole process."""
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)
