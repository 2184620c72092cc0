"""A Consul server that gossip counts as failed: one process of each host has the agent join it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from mlxmesh_shared.consul.agent import ConsulAgent
from mlxmesh_shared.consul.rejoining import keep_joined
from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.settings import ConsulSettings
from tests.fakes.consul_agent import FakeConsulAgent
from tests.fakes.health import healthy

PATIENCE_S = 30
PREFIX = "mlxmesh-"
NOBODY = "127.0.0.1:1"


@pytest.fixture
async def agent() -> AsyncIterator[FakeConsulAgent]:
    agent = FakeConsulAgent()
    await agent.start()
    yield agent
    await agent.stop()


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """Where a Consul server listens, as far as anybody can tell by connecting."""
    async with healthy("127.0.0.1:0") as address:
        yield address


def settings(agent: FakeConsulAgent) -> ConsulSettings:
    return ConsulSettings.model_validate({"address": agent.address, "check_interval_s": 0.3})


def joined(agent: FakeConsulAgent) -> list[str]:
    return [path for _, path in agent.requests if path.startswith("/v1/agent/join/")]


async def until_members_were_listed(agent: FakeConsulAgent, times: int) -> None:
    before = agent.requests.count(("GET", "/v1/agent/members"))
    async with asyncio.timeout(PATIENCE_S):
        while agent.requests.count(("GET", "/v1/agent/members")) < before + times:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def joining(agent: FakeConsulAgent, own: set[str]) -> AsyncIterator[None]:
    """Keeps the agent joined as a process with these services."""
    asked = ConsulAgent(settings(agent))
    task = asyncio.create_task(keep_joined(asked, PREFIX, lambda: own, 0.01))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asked.close()


async def test_the_agent_joins_the_server_and_watches_go_on(
    agent: FakeConsulAgent, server: str
) -> None:
    registry = ConsulRegistry(settings(agent))
    await registry.register(Instance("engine", "a", server, 1))
    async with asyncio.timeout(PATIENCE_S), aclosing(registry.watch("engine")) as watching:
        assert [one.instance_id for one in await anext(watching)] == ["a"]
        agent.faults.server_lost = server
        await registry.register(Instance("engine", "b", server, 1))
        assert [one.instance_id for one in await anext(watching)] == ["a", "b"]
    await registry.close()
    assert joined(agent) == [f"/v1/agent/join/{server}"]


async def test_only_the_process_with_the_first_service_joins(
    agent: FakeConsulAgent, server: str
) -> None:
    registry = ConsulRegistry(settings(agent))
    await registry.register(Instance("engine", "a", server, 1))
    await registry.close()
    agent.faults.server_lost = server
    own = {"mlxmesh-gateway:b"}
    async with joining(agent, own), asyncio.timeout(PATIENCE_S):
        await until_members_were_listed(agent, 5)
        assert joined(agent) == []
        own.add("mlxmesh-engine:a")
        while not joined(agent):
            await asyncio.sleep(0.01)


async def test_a_server_that_cannot_be_reached_is_not_joined(
    agent: FakeConsulAgent, server: str
) -> None:
    registry = ConsulRegistry(settings(agent))
    await registry.register(Instance("engine", "a", server, 1))
    await registry.close()
    agent.faults.server_lost = NOBODY
    async with joining(agent, {"mlxmesh-engine:a"}), asyncio.timeout(PATIENCE_S):
        await until_members_were_listed(agent, 5)
        assert joined(agent) == []
        agent.faults.server_lost = server
        while not joined(agent):
            await asyncio.sleep(0.01)


async def test_an_agent_with_a_leader_is_asked_nothing_more(agent: FakeConsulAgent) -> None:
    async with joining(agent, set()), asyncio.timeout(PATIENCE_S):
        while agent.requests.count(("GET", "/v1/status/leader")) < 5:
            await asyncio.sleep(0.01)
    assert {path for _, path in agent.requests} == {"/v1/status/leader"}
