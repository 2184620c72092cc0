"""The mirror of the catalogue and a model service that comes later."""

import asyncio
from contextlib import aclosing

from mlxmesh_generation.placement.mirror import ModelService
from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.rpc.channels import ChannelPool
from mlxmesh_shared.settings.consul import ConsulSettings
from tests.fakes.consul_agent import FakeConsulAgent
from tests.fakes.model_service import FakeModelService
from tests.fakes.registry import InMemoryRegistry
from tests.integration.generation.harness import pocket


async def test_a_watch_waits_for_the_model_service_to_register() -> None:
    """Neither an error nor a retry: the first token of a mesh that starts would wait for it."""
    registry, channels, fake = InMemoryRegistry(), ChannelPool(), FakeModelService()
    fake.put(pocket())
    models = ModelService(registry=registry, channels=channels, watch_channels=channels)
    async with aclosing(models.watch(0)) as changes:
        first = asyncio.create_task(anext(changes))
        await asyncio.sleep(0.05)
        assert not first.done()
        async with fake.running(), asyncio.timeout(30):
            await registry.register(fake.instance)
            change = await first
            assert change.model is not None
            assert change.model.name == "pocket"
    await channels.close()


async def test_a_watch_that_broke_is_opened_again_while_consul_is_away() -> None:
    """Otherwise a blip between two hosts would last as long as Consul's outage."""
    agent, channels, fake = FakeConsulAgent(), ChannelPool(), FakeModelService()
    await agent.start()
    registry = ConsulRegistry(ConsulSettings(address=agent.address))
    fake.put(pocket())
    models = ModelService(registry=registry, channels=channels, watch_channels=channels)
    async with fake.running(), asyncio.timeout(30):
        await registry.register(fake.instance)
        for _ in range(2):
            async with aclosing(models.watch(0)) as changes:
                change = await anext(changes)
                assert change.model is not None
                assert change.model.name == "pocket"
            await agent.stop()
    await registry.close()
    await channels.close()
