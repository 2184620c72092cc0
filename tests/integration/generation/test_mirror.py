"""The mirror of the catalogue and a model service that comes later."""

import asyncio
from contextlib import aclosing

from mlxmesh_generation.placement.mirror import ModelService
from mlxmesh_shared.rpc.channels import ChannelPool
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
        async with fake.running(), asyncio.timeout(10):
            await registry.register(fake.instance)
            change = await first
            assert change.model is not None
            assert change.model.name == "pocket"
    await channels.close()
