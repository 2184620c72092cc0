"""How much a watch asks of Consul and of instances: requests are counted, nothing is timed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlxmesh_shared.consul.agent import ConsulAgent, ConsulService
from mlxmesh_shared.consul.blocking import BlockingQuery
from mlxmesh_shared.consul.transport import Transport
from mlxmesh_shared.registry.consul import MAX_READ_PER_S, MAX_REPEATED_PROBES, ConsulRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.settings import ConsulSettings
from tests.fakes.consul_agent import FakeConsulAgent
from tests.operations import counted

LOST = 3 * MAX_REPEATED_PROBES
PATIENCE_S = 60


class CountedHealth(health_pb2_grpc.HealthServicer):
    """Serves or not, for as many instances as there are names for its address."""

    def __init__(self) -> None:
        self.serving = True
        self.checks = 0

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        self.checks += 1
        served = health_pb2.HealthCheckResponse
        return served(status=served.SERVING if self.serving else served.NOT_SERVING)


@pytest.fixture
async def health() -> AsyncIterator[tuple[CountedHealth, str]]:
    server, servicer = aio.server(), CountedHealth()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer, address
    await server.stop(None)


class ListingAgent(ConsulAgent):
    """Lists what the test says; a query waits until that changes."""

    def __init__(self) -> None:
        super().__init__(ConsulSettings())
        self.index, self.listed = 1, tuple[ConsulService, ...]()
        self.answers = 0
        self._changed = asyncio.Condition()

    async def set(self, listed: tuple[ConsulService, ...]) -> None:
        async with self._changed:
            self.index, self.listed = self.index + 1, listed
            self._changed.notify_all()

    async def services(
        self, name: str, index: int, wait_s: float
    ) -> tuple[int, tuple[ConsulService, ...]]:
        async with self._changed:
            await self._changed.wait_for(lambda: self.index > index)
        self.answers += 1
        return self.index, self.listed


def entries(count: int, address: str, *, passing: bool) -> tuple[ConsulService, ...]:
    host, _, port = address.rpartition(":")
    return tuple(
        ConsulService(
            name="mlxmesh-engine",
            service_id=f"mlxmesh-engine:{number:04d}",
            address=host,
            port=int(port),
            meta={"mlxmesh-pid": "1"},
            passing=passing,
        )
        for number in range(count)
    )


async def size(watching: AsyncGenerator[tuple[Instance, ...], None]) -> int:
    async with asyncio.timeout(PATIENCE_S):
        return len(await anext(watching))


async def test_lost_instances_are_probed_a_few_at_a_time_without_asking_consul(
    health: tuple[CountedHealth, str],
) -> None:
    servicer, address = health
    agent = ListingAgent()
    registry = ConsulRegistry(ConsulSettings(), agent)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(registry.close)
        await agent.set(entries(LOST, address, passing=True))
        watching = await stack.enter_async_context(aclosing(registry.watch("engine")))
        assert await size(watching) == LOST
        servicer.serving = False
        await agent.set(entries(LOST, address, passing=False))
        assert await size(watching) == 0
        # Each was asked once whether it serves against Consul's word.
        assert (servicer.checks, agent.answers) == (LOST, 2)

        following = asyncio.create_task(size(watching))
        async with asyncio.timeout(PATIENCE_S):
            while servicer.checks <= LOST + 2 * MAX_REPEATED_PROBES:
                await asyncio.sleep(0.01)
        assert servicer.checks <= LOST + 3 * MAX_REPEATED_PROBES
        assert agent.answers == 2

        # All of them get their turn.
        servicer.serving = True
        found = await following
        while found < LOST:
            found = await size(watching)


async def test_instances_that_serve_against_consuls_word_are_probed_in_turns(
    health: tuple[CountedHealth, str],
) -> None:
    servicer, address = health
    agent = ListingAgent()
    registry = ConsulRegistry(ConsulSettings(), agent)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(registry.close)
        await agent.set(entries(LOST, address, passing=True))
        watching = await stack.enter_async_context(aclosing(registry.watch("engine")))
        assert await size(watching) == LOST
        following = asyncio.create_task(size(watching))
        await agent.set(entries(LOST, address, passing=False))
        async with asyncio.timeout(PATIENCE_S):
            while servicer.checks <= LOST + MAX_REPEATED_PROBES:
                await asyncio.sleep(0.01)
        # Each was asked once; then a few of them each time, and none of them is gone.
        assert servicer.checks <= LOST + 2 * MAX_REPEATED_PROBES
        assert not following.done()

        servicer.serving = False
        left = await following
        while left:
            left = await size(watching)
        assert agent.answers == 2


async def cost_of_losing(instances: int, address: str) -> int:
    """The calls for one answer, by which a tenth of so many instances fail."""
    agent = ListingAgent()
    registry = ConsulRegistry(ConsulSettings(), agent)
    listed = entries(instances, address, passing=True)
    await agent.set(listed)
    await registry.resolve("engine")
    await agent.set(
        tuple(one._replace(passing=number % 10 > 0) for number, one in enumerate(listed))
    )
    with counted() as count:
        assert len(await registry.resolve("engine")) == instances * 9 // 10
    await registry.close()
    return count.calls


async def test_an_answer_costs_as_much_as_it_is_long(health: tuple[CountedHealth, str]) -> None:
    servicer, address = health
    servicer.serving = False
    few, many = await cost_of_losing(100, address), await cost_of_losing(800, address)
    assert many < 1.5 * 8 * few


async def test_the_pause_between_answers_grows_with_their_length() -> None:
    query = BlockingQuery[int](lambda entries: entries / MAX_READ_PER_S)
    slept: list[float] = []

    async def ask(index: int, _: float) -> tuple[int, int]:
        return index + 1, 600

    loop = asyncio.get_running_loop()
    for _ in range(3):
        before_s = loop.time()
        await query.next(ask)
        slept.append(loop.time() - before_s)
    # The first one is read at once; each of the others costs its share of a second.
    assert slept[1] >= 0.3
    assert slept[2] >= 0.3


async def test_the_agent_of_this_host_does_not_compress_lists() -> None:
    agent = FakeConsulAgent()
    await agent.start()
    transport = Transport(ConsulSettings(address=agent.address))
    headers = await transport.get(lambda response: response.headers, "/v1/health/service/engine")
    await transport.close()
    await agent.stop()
    assert "Content-Encoding" not in headers


@pytest.mark.parametrize(("own", "filtered"), [(1, True), (8, True), (9, False)])
async def test_a_process_asks_only_for_its_own_checks(own: int, filtered: bool) -> None:
    agent = FakeConsulAgent()
    await agent.start()
    asking = ConsulAgent(ConsulSettings(address=agent.address))
    await asking.checked_services([f"mlxmesh-engine:{number}" for number in range(own)])
    await asking.close()
    await agent.stop()
    (path,) = (path for _, path in agent.requests if "/agent/checks" in path)
    assert ("filter=" in path) is filtered


async def test_the_own_services_are_found_among_others() -> None:
    agent = FakeConsulAgent()
    await agent.start()
    asking = ConsulAgent(ConsulSettings(address=agent.address))
    for one in entries(3, "127.0.0.1:1", passing=True):
        await asking.register(one)
    found = await asking.checked_services(["mlxmesh-engine:0001", "mlxmesh-engine:0009"])
    await asking.close()
    await agent.stop()
    assert "mlxmesh-engine:0001" in found
    assert "mlxmesh-engine:0009" not in found
