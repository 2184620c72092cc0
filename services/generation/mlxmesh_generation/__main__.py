"""The generation process: everything about text, between the gateway and the engines."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from mlxmesh.generation.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from mlxmesh_generation.engines import Engines
from mlxmesh_generation.generations import Generations
from mlxmesh_generation.mirror import CatalogueMirror
from mlxmesh_generation.model_service import ModelService
from mlxmesh_generation.servicer import GenerationServicer
from mlxmesh_generation.tokenizers import Tokenizers
from mlxmesh_shared.channels import ChannelPool
from mlxmesh_shared.process import run_service, wait_for_stop
from mlxmesh_shared.registry import Instance, Registry, open_registry
from mlxmesh_shared.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import GenerationSettings, load_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json


async def main() -> None:
    settings = load_settings(GenerationSettings, sys.argv[1:])
    instance_id = new_instance_id("generation")
    setup_logging(
        service="generation",
        instance_id=instance_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    async with AsyncExitStack() as stack:
        registry = open_registry(settings)
        stack.push_async_callback(registry.close)
        generations = await open_generations(stack, settings, registry)
        server = make_server(settings, generations)
        address = await server.start()
        await server.set_serving()
        instance = Instance("generation", instance_id, address, os.getpid())
        await registry.register(instance)
        await wait_for_stop(server.leaving)
        await registry.deregister(instance)
        await server.drain(settings.drain_grace_s)


async def open_generations(
    stack: AsyncExitStack, settings: GenerationSettings, registry: Registry
) -> Generations:
    """The domain, following the registry and the model service until the stack is closed."""
    channels = ChannelPool()
    stack.push_async_callback(channels.close)
    models = ModelService(registry=registry, channels=channels)
    catalogue = CatalogueMirror(models)
    engines = Engines(registry)
    await stack.enter_async_context(beside(catalogue.run(), engines.run()))
    tokenizers = Tokenizers(
        source=models,
        directory=settings.data_dir / "tokenizers",
        max_loaded=settings.tokenizer_cache_models,
    )
    return Generations(catalogue=catalogue, tokenizers=tokenizers, engines=engines)


def make_server(settings: GenerationSettings, generations: Generations) -> MeshServer:
    return MeshServer(
        listen=settings.listen,
        services=[(add_GenerationServiceServicer_to_server, GenerationServicer(generations))],
        service_names=["mlxmesh.generation.v1.GenerationService"],
        # Each call was logged by the gateway before; here only what fails is worth the time.
        options=ServerOptions(
            max_concurrent_rpcs=settings.max_concurrent_rpcs, log_successes=False
        ),
        name="generation",
    )


@asynccontextmanager
async def beside(*work: Coroutine[Any, Any, Any]) -> AsyncGenerator[None]:
    """Runs work beside the body, and cancels what is left of it in the end.

    Work that fails ends the body, and with it the process: better than to serve without it.
    """
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each) for each in work]
        yield
        for task in running:
            task.cancel()


if __name__ == "__main__":
    sys.exit(run_service(main))
