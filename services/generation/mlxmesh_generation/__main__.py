"""The generation process: everything about text, between the gateway and the engines."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import end_at_interrupt

    end_at_interrupt()  # the imports below take a while

import asyncio
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from mlxmesh.generation.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from mlxmesh_generation.placement.engines import Engines, Replicas
from mlxmesh_generation.placement.mirror import CatalogueMirror, ModelService
from mlxmesh_generation.servicer import EngineStatusServicer, GenerationServicer
from mlxmesh_generation.streams.generations import Generations, Timeouts
from mlxmesh_generation.streams.limits import GenerationLimits
from mlxmesh_generation.streams.preparation import Preparation
from mlxmesh_generation.streams.retention import RetentionLimits
from mlxmesh_generation.streams.telemetry import GenerationTelemetry
from mlxmesh_generation.text.prompts import Prompts
from mlxmesh_generation.text.rendering import Renderers
from mlxmesh_generation.text.tokenizers import Tokenizers
from mlxmesh_generation.text.worker_threads import FairThreadPool
from mlxmesh_shared.events import Publish, publishing, unheard
from mlxmesh_shared.process.live import following
from mlxmesh_shared.process.startup import check_data_dir, run_service, wait_for_stop
from mlxmesh_shared.registry import Registry, local_instance, open_registry
from mlxmesh_shared.rpc.channels import ChannelPool, open_channel
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import GenerationSettings, LiveSettings, live_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json
from mlxmesh_shared.telemetry.calls import ServedCalls
from mlxmesh_shared.telemetry.metrics import Telemetry, observe_breakers
from mlxmesh_shared.telemetry.setup import ProcessTelemetry
from mlxmesh_shared.tls import CertificateSource, ServerTls, open_certificates


async def main() -> None:
    live = live_settings(GenerationSettings, sys.argv[1:])
    settings = live.current
    check_data_dir(settings.data_dir)
    instance_id = new_instance_id("generation")
    setup_logging(
        service="generation",
        instance_id=instance_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    telemetry = ProcessTelemetry(settings, "generation", instance_id)
    async with AsyncExitStack() as stack:
        certificates = open_certificates(settings, "generation")
        registry = open_registry(settings, certificates)
        stack.push_async_callback(registry.close)
        await stack.enter_async_context(following(live, "generation"))
        await stack.enter_async_context(telemetry.exporting(registry, certificates))
        of_process = telemetry.of_process
        events = await stack.enter_async_context(
            publishing(
                live,
                registry,
                service="generation",
                instance_id=instance_id,
                certificates=certificates,
            )
        )
        generations, engines = await open_generations(
            stack, live, registry, certificates, of_process, events.publish
        )
        observe_breakers(
            of_process.metrics, lambda: (("engine", each) for _, each in engines.breakers())
        )
        server = make_server(settings, generations, engines, certificates, of_process)
        live.subscribe(lambda now: server.limit_concurrent_rpcs(now.max_concurrent_rpcs))
        address = await server.start()
        await server.set_serving()
        instance = local_instance(settings, "generation", instance_id, address)
        await registry.register(instance)
        await wait_for_stop(server.leaving)
        await registry.deregister(instance)
        await server.drain(settings.drain_grace_s)


async def open_generations(
    stack: AsyncExitStack,
    live: LiveSettings[GenerationSettings],
    registry: Registry,
    certificates: CertificateSource | None = None,
    telemetry: Telemetry | None = None,
    publish: Publish = unheard,
) -> tuple[Generations, Engines]:
    """The domain, following the registry and the model service until the stack is closed."""
    settings = live.current
    open_ = partial(open_channel, certificates=certificates)
    channels = ChannelPool(partial(open_, role="model"))
    stack.push_async_callback(channels.close)
    models = ModelService(registry=registry, channels=channels)
    catalogue = CatalogueMirror(models)
    engines = Engines(registry, open_=open_, publish=publish)
    live.subscribe(lambda now: engines.prefer_warm(now.prefix_routing))
    await stack.enter_async_context(beside(catalogue.run(), engines.run()))
    replicas = Replicas(engines, catalogue)
    preparation = Preparation(
        catalogue=catalogue,
        tokenizers=Tokenizers(
            source=models,
            directory=settings.data_dir / "tokenizers",
            max_loaded=settings.tokenizer_cache_models,
        ),
        prompts=open_prompts(stack),
        replicas=replicas,
    )
    generations = Generations(
        preparation=preparation,
        engines=replicas,
        timeouts=Timeouts(settings.engine_wait_s, settings.detached_timeout_s),
        limits=GenerationLimits(
            max_generations=settings.max_generations, max_held_bytes=settings.max_held_bytes
        ),
        retained=RetentionLimits(
            settings.retained_bytes, settings.retained_generations, settings.retention_s
        ),
        max_unread_bytes=settings.max_unread_bytes,
        telemetry=GenerationTelemetry(telemetry, settings.log_content_models),
        publish=publish,
    )
    return generations, engines


def open_prompts(stack: AsyncExitStack) -> Prompts:
    """Its threads and processes end with the stack."""
    turns, renderers = FairThreadPool(), Renderers()
    stack.callback(turns.close)
    stack.callback(renderers.close)
    return Prompts(turns, renderers)


def make_server(
    settings: GenerationSettings,
    generations: Generations,
    engines: Engines,
    certificates: CertificateSource | None = None,
    telemetry: Telemetry | None = None,
) -> MeshServer:
    return MeshServer(
        listen=settings.listen,
        services=[
            (add_GenerationServiceServicer_to_server, GenerationServicer(generations)),
            (add_TelemetryServiceServicer_to_server, EngineStatusServicer(engines)),
        ],
        service_names=[
            "mlxmesh.generation.v1.GenerationService",
            "mlxmesh.telemetry.v1.TelemetryService",
        ],
        # Each call was logged by the gateway before; here only what fails is worth the time.
        options=ServerOptions(
            max_concurrent_rpcs=settings.max_concurrent_rpcs,
            log_successes=False,
            reflection=settings.reflection,
        ),
        name="generation",
        tls=certificates and ServerTls(certificates),
        watcher=ServedCalls(telemetry or Telemetry()),
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
