"""A Consul server that gossip counts as failed: one process of each host has the agent join it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from mlxmesh_shared.consul.agent import ConsulAgent
from mlxmesh_shared.consul.rejoining import keep_joined
from mlxmesh_shared.errors import RegistryUnavailable
from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.settings import ConsulSettings
from tests.fakes.consul_agent import FakeConsulAgent
from tests.fakes.health import healthy

PATIENCE_S = 10
PREFIX = "mlxmesh-"


@pytest.fixture
async def agent() -> AsyncIterator[FakeConsulAgent]:
    agent = FakeConsulAgent()
    await agent.start()
    yield agent
    await agent.stop()


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with healthy("127.0.0.1:0") as address:
        yield address


def settings(agent: FakeConsulAgent) -> ConsulSettings:
    return ConsulSettings.model_validate({"address": agent.address, "check_interval_s": 0.3})


def joined(agent: FakeConsulAgent) -> list[str]:
    return [path for _, path in agent.requests if path.startswith("/v1/agent/join/")]


async def test_the_agent_joins_the_server_and_watches_go_on(
    agent: FakeConsulAgent, address: str
) -> None:
    registry = ConsulRegistry(settings(agent))
    await registry.register(Instance("engine", "a", address, 1))
    async with asyncio.timeout(PATIENCE_S), aclosing(registry.watch("engine")) as watching:
        assert [one.instance_id for one in await anext(watching)] == ["a"]
        agent.faults.server_lost = True
        await agent.put("key", "which ends the waiting query")
        await registry.register(Instance("engine", "b", address, 1))
        assert [one.instance_id for one in await anext(watching)] == ["a", "b"]
    await registry.close()
    assert joined(agent) == ["/v1/agent/join/192.0.2.1:8301"]


async def until_members_were_listed(agent: FakeConsulAgent, times: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while agent.requests.count(("GET", "/v1/agent/members")) < times:
            await asyncio.sleep(0.01)


async def test_only_the_process_with_the_first_service_joins(
    agent: FakeConsulAgent, address: str
) -> None:
    registry = ConsulRegistry(settings(agent))
    await registry.register(Instance("engine", "a", address, 1))
    await registry.close()
    other = ConsulAgent(settings(agent))
    agent.faults.server_lost = True
    with pytest.raises(RegistryUnavailable):
        await other.services("mlxmesh-engine", 0, 0)

    own = {"mlxmesh-gateway:b"}
    joining = asyncio.create_task(keep_joined(other, PREFIX, lambda: own, 0.01))
    await until_members_were_listed(agent, 5)
    assert joined(agent) == []

    own.add("mlxmesh-engine:a")
    async with asyncio.timeout(PATIENCE_S):
        while not joined(agent):
            await asyncio.sleep(0.01)
    joining.cancel()
    await asyncio.gather(joining, return_exceptions=True)
    await other.close()


async def test_an_agent_that_answers_is_asked_nothing_more(agent: FakeConsulAgent) -> None:
    asked = ConsulAgent(settings(agent))
    joining = asyncio.create_task(keep_joined(asked, PREFIX, set[str], 0.01))
    await asked.services("mlxmesh-engine", 0, 0)
    await asyncio.sleep(0.1)
    assert [path for _, path in agent.requests if "/agent/" in path] == []
    joining.cancel()
    await asyncio.gather(joining, return_exceptions=True)
    await asked.close()
