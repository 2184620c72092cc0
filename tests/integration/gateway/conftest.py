"""A gateway with fake services behind it, all on real gRPC."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlxmesh_client import MeshClient
from mlxmesh_gateway.__main__ import serve
from mlxmesh_gateway.otlp.assembly import open_receiver
from mlxmesh_shared.process.service_host import ServiceHost
from mlxmesh_shared.registry import OFFERS_RELAY, Instance
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import GatewaySettings
from tests.fakes.policy_service import FakePolicyService, policy_server
from tests.fakes.public_services import (
    FakeGeneration,
    FakeModels,
    generation_server,
    model_server,
)
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.service_process import quiet_process

# All of them hear of it at once here.
SETTLE_S = 0.02


class Stand:
    """Builds what a test needs; everything ends with the test."""

    def __init__(self, stack: AsyncExitStack, data_dir: Path, *, relays: bool = True) -> None:
        """data_dir: of the gateways.

        relays: whether generation instances carry streams on a relay; older ones do not.
        """
        self.registry = InMemoryRegistry()
        self.relays = relays
        self.data_dir = data_dir
        self._stack = stack
        self._gateways = itertools.count(1)

    async def generation(
        self, name: str = "generation-1", servicer: FakeGeneration | None = None
    ) -> FakeGeneration:
        """A generation instance, registered under `name`."""
        servicer = servicer or FakeGeneration(engine_id=name)
        await self.announce("generation", name, generation_server(servicer))
        return servicer

    async def models(self) -> FakeModels:
        """A model instance."""
        servicer = FakeModels()
        await self.announce("model", "model-1", model_server(servicer))
        return servicer

    async def access(
        self, servicer: FakePolicyService | None = None, name: str = "access-1"
    ) -> FakePolicyService:
        """An access service."""
        servicer = servicer or FakePolicyService()
        await self.announce("access", name, policy_server(servicer))
        return servicer

    async def announce(self, service: str, name: str, server: MeshServer) -> Instance:
        """Starts and registers a server."""
        address = await server.start()
        self._stack.push_async_callback(server.drain, 0, 0)
        metadata = {OFFERS_RELAY: "1"} if service == "generation" and self.relays else {}
        instance = Instance(service, name, address, pid=1, metadata=metadata)
        await self.registry.register(instance)
        return instance

    async def announced_server(self, service: str, name: str) -> MeshServer:
        """A registered process that serves nothing but its health, NOT_SERVING at first."""
        server = MeshServer(services=[], service_names=[])
        await self.announce(service, name, server)
        return server

    async def http(self, address: str) -> str:
        """The HTTP address of a gateway."""
        (gateway,) = [
            one for one in await self.registry.resolve("gateway") if one.address == address
        ]
        return gateway.metadata["http"]

    async def gateway(self, **settings: Any) -> str:
        """Starts a gateway; returns its address."""
        address, _ = await self._stack.enter_async_context(self.running_gateway(**settings))
        return address

    @asynccontextmanager
    async def running_gateway(self, **settings: Any) -> AsyncIterator[tuple[str, asyncio.Event]]:
        """A gateway's address and the event that stops it; ends once it has drained."""
        # One that leaves others behind stops only once its connections have come of age.
        short = {"drain_grace_s": 1, "max_connection_age_s": 1, "data_dir": self.data_dir}
        options = GatewaySettings(**{"listen": "127.0.0.1:0", **short, **settings})
        name = f"gateway-{next(self._gateways)}"
        serving: asyncio.Future[asyncio.Event] = asyncio.get_running_loop().create_future()

        async def wait_for_stop(leaving: asyncio.Event) -> None:
            serving.set_result(leaving)
            await leaving.wait()

        process = quiet_process(options, "gateway", name)
        host = ServiceHost(process, self.registry, wait_for_stop=wait_for_stop)
        receiver = open_receiver(options, name)

        async def run() -> None:
            async with receiver.running():
                await serve(host, receiver, settle_s=SETTLE_S)

        task = asyncio.create_task(run())
        try:
            await asyncio.wait([task, serving], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task  # raises why it does not serve
            leaving = await serving
            yield await self._gateway_address(name), leaving
        finally:
            if serving.done():
                serving.result().set()
            await task

    async def _gateway_address(self, name: str) -> str:
        async for instances in self.registry.watch("gateway"):
            for instance in instances:
                if instance.instance_id == name:
                    return instance.address
        raise AssertionError

    async def client(self, address: str, **options: Any) -> MeshClient:
        """A client of a gateway."""
        return await self._stack.enter_async_context(MeshClient(address, **options))

    async def health(self, channel: grpc.aio.Channel, service: str) -> str:
        """What a gateway's health check says of a service."""
        request = health_pb2.HealthCheckRequest(service=service)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        response = await stub.Check(request)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    async def channel(self, address: str) -> grpc.aio.Channel:
        """A bare channel, whose errors are gRPC's own."""
        return await self._stack.enter_async_context(grpc.aio.insecure_channel(address))


@pytest.fixture(params=["relay", "calls"])
async def stand(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        yield Stand(stack, tmp_path, relays=request.param == "relay")
