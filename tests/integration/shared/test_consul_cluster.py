"""Three real Consul servers: their leader dies, then most of them, and nobody is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.settings import ConsulSettings
from tests.fakes.consul_process import ConsulAgentProcess, ConsulCluster
from tests.fakes.health import healthy

pytestmark = pytest.mark.tools

PATIENCE_S = 60
SERVICE = "engine"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ConsulCluster]:
    cluster = ConsulCluster(tmp_path)
    await cluster.start()
    yield cluster
    await cluster.stop()


class Watcher:
    """What a watch of the service saw, one set of names after the other."""

    def __init__(self, registry: ConsulRegistry) -> None:
        self.seen: list[tuple[str, ...]] = []
        self._task = asyncio.create_task(self._watch(registry))

    async def _watch(self, registry: ConsulRegistry) -> None:
        async for found in registry.watch(SERVICE):
            self.seen.append(tuple(one.instance_id for one in found))

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.seen or self.seen[-1] != names:
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def registries(stack: AsyncExitStack, agents: Sequence[ConsulAgentProcess]) -> list[ConsulRegistry]:
    """One at each agent."""
    made: list[ConsulRegistry] = []
    for agent in agents:
        given = {"address": agent.address, "check_interval_s": 1}
        made.append(ConsulRegistry(ConsulSettings.model_validate(given)))
        stack.push_async_callback(made[-1].close)
    return made


async def test_nobody_is_lost_with_a_leader_nor_with_the_majority(cluster: ConsulCluster) -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(healthy("127.0.0.1:0"))
        followers = await cluster.following()
        owner, reader = registries(stack, followers)
        await owner.register(Instance(SERVICE, "a", address, 1))
        watcher = Watcher(reader)
        stack.push_async_callback(watcher.stop)
        await watcher.until("a")

        first = await cluster.leading()
        await first.stop()
        assert await cluster.leading() in followers
        await owner.register(Instance(SERVICE, "b", address, 1))
        await watcher.until("a", "b")

        # The reader's own agent stays, without a leader.
        await followers[0].stop()
        assert [one.instance_id for one in await reader.resolve(SERVICE)] == ["a", "b"]
        await followers[0].launch()
        await first.start()
        await owner.register(Instance(SERVICE, "c", address, 1))
        await watcher.until("a", "b", "c")

        # From the first on, never fewer.
        assert all("a" in names for names in watcher.seen[watcher.seen.index(("a",)) :])
