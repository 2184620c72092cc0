"""Builds the generation service from its settings."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from mlxmesh.generation.v1.embedding_pb2_grpc import add_EmbeddingServiceServicer_to_server
from mlxmesh.generation.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from mlxmesh_generation.embeddings.embeddings import Embeddings
from mlxmesh_generation.embeddings.servicer import EmbeddingServicer
from mlxmesh_generation.placement.demand import Demand
from mlxmesh_generation.placement.encoders import Encoders
from mlxmesh_generation.placement.engines import Engines, Replicas
from mlxmesh_generation.placement.mirror import CatalogueMirror, ModelService
from mlxmesh_generation.relay.servicer import RELAY, Relays
from mlxmesh_generation.reporting.history_link import HistoryLink
from mlxmesh_generation.reporting.reporter import OutcomeReporter
from mlxmesh_generation.servicer import EngineStatusServicer, GenerationServicer
from mlxmesh_generation.shadowing.queue import SampleQueue
from mlxmesh_generation.shadowing.repetition import Repetitions
from mlxmesh_generation.shadowing.reporter import PairReporter
from mlxmesh_generation.shadowing.shadow_link import ShadowLink
from mlxmesh_generation.shadowing.shadowing import Shadowing
from mlxmesh_generation.streams.generations import Generations, Timeouts
from mlxmesh_generation.streams.limits import GenerationLimits
from mlxmesh_generation.streams.loads import Loads
from mlxmesh_generation.streams.preparation import Preparation
from mlxmesh_generation.streams.retention import RetentionLimits
from mlxmesh_generation.streams.telemetry import GenerationTelemetry
from mlxmesh_generation.text.encoder_inputs import EncoderInputs
from mlxmesh_generation.text.prompts import Prompts
from mlxmesh_generation.text.rendering import Renderers
from mlxmesh_generation.text.tokenizers import Tokenizers
from mlxmesh_generation.text.worker_threads import FairThreadPool
from mlxmesh_generation.upstream.embedding_call import UpstreamEmbeddings
from mlxmesh_generation.upstream.upstreams import Upstreams
from mlxmesh_shared.events import Publish, discard_event
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import MAX_MESSAGE_BYTES, WATCH_TIMEOUTS, ChannelPool
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import GenerationSettings
from mlxmesh_shared.telemetry.metrics import Telemetry, observe_breakers


class Parts(NamedTuple):
    """What the servicers need."""

    generations: Generations
    embeddings: Embeddings
    engines: Engines
    upstreams: Upstreams


async def open_generations(
    stack: AsyncExitStack,
    process: ServiceProcess[GenerationSettings],
    registry: Registry,
    publish: Publish = discard_event,
) -> Parts:
    """The parts, which follow the registry and the model service until the stack is closed."""
    settings = process.settings
    channels = ChannelPool(partial(process.open_channel, role="model"))
    stack.push_async_callback(channels.close)
    watches = ChannelPool(partial(process.open_channel, role="model", timeouts=WATCH_TIMEOUTS))
    stack.push_async_callback(watches.close)
    models = ModelService(registry=registry, channels=channels, watch_channels=watches)
    catalogue = CatalogueMirror(models)
    engines = Engines(registry, open_=process.open_channel, publish=publish)
    process.live.subscribe(lambda now: engines.prefer_warm(now.prefix_routing))
    reporter = OutcomeReporter(
        HistoryLink(registry, channels, process.instance_id).send,
        metrics=process.telemetry.of_process.metrics,
    )
    await stack.enter_async_context(reporter.running())
    await stack.enter_async_context(running_in_background(catalogue.run(), engines.run()))
    replicas = Replicas(engines, catalogue, Demand(models, recent_uses=engines.recent_uses))
    upstreams = Upstreams()
    stack.push_async_callback(upstreams.close)
    tokenizers = Tokenizers(
        source=models,
        directory=settings.data_dir / "tokenizers",
        max_loaded=settings.tokenizer_cache_models,
    )
    threads = FairThreadPool()
    stack.callback(threads.close)
    preparation = Preparation(
        catalogue=catalogue,
        tokenizers=tokenizers,
        prompts=_open_prompts(stack, threads),
        replicas=replicas,
        upstreams=upstreams,
    )
    pairs = PairReporter(ShadowLink(registry, channels, process.instance_id).send)
    await stack.enter_async_context(pairs.running())
    shadowing = _shadowing(process, preparation, engines, catalogue, pairs)
    await stack.enter_async_context(running_in_background(shadowing.run()))
    telemetry = GenerationTelemetry(
        process.telemetry.of_process,
        settings.log_content_models,
        reporter.record,
        on_ended=shadowing.on_ended,
    )
    limits = GenerationLimits(
        max_generations=settings.max_generations, max_held_bytes=settings.max_held_bytes
    )
    generations = _generations(process, preparation, replicas, limits, telemetry, publish)
    embeddings = Embeddings(
        catalogue=catalogue,
        loads=Loads(tokenizers, replicas),
        inputs=EncoderInputs(threads),
        encoders=Encoders(engines, replicas),
        upstreams=UpstreamEmbeddings(upstreams),
        limits=limits,
        telemetry=telemetry,
        engine_wait_s=settings.engine_wait_s,
    )
    return Parts(generations, embeddings, engines, upstreams)


def _shadowing(
    process: ServiceProcess[GenerationSettings],
    preparation: Preparation,
    engines: Engines,
    catalogue: CatalogueMirror,
    pairs: PairReporter,
) -> Shadowing:
    settings, telemetry = process.settings, process.telemetry.of_process
    repetitions = Repetitions(
        preparation=preparation,
        engines=engines,
        # Its spans, but no metrics of generations, and no texts.
        telemetry=GenerationTelemetry(Telemetry(telemetry.tracer)),
        timeout_s=settings.shadow_timeout_s,
    )
    return Shadowing(
        repetitions=repetitions,
        engines=engines,
        has_shadow=catalogue.has_shadow,
        queue=SampleQueue(settings.shadow_bytes),
        record_pair=pairs.record_pair,
        record_drop=pairs.record_drop,
        max_wait_s=settings.shadow_wait_s,
        metrics=telemetry.metrics,
    )


def _open_prompts(stack: AsyncExitStack, threads: FairThreadPool) -> Prompts:
    """Its processes end with the stack."""
    renderers = Renderers()
    stack.callback(renderers.close)
    return Prompts(threads, renderers)


def _generations(
    process: ServiceProcess[GenerationSettings],
    preparation: Preparation,
    replicas: Replicas,
    limits: GenerationLimits,
    telemetry: GenerationTelemetry,
    publish: Publish,
) -> Generations:
    settings = process.settings
    return Generations(
        preparation=preparation,
        engines=replicas,
        timeouts=Timeouts(settings.engine_wait_s, settings.detached_timeout_s),
        limits=limits,
        retained=RetentionLimits(
            settings.retained_bytes, settings.retained_generations, settings.retention_s
        ),
        max_unread_bytes=settings.max_unread_bytes,
        telemetry=telemetry,
        publish=publish,
    )


def make_server(process: ServiceProcess[GenerationSettings], parts: Parts) -> MeshServer:
    """The server with both servicers; its limit of concurrent calls follows the settings."""
    settings = process.settings
    observe_breakers(
        process.telemetry.of_process.metrics,
        lambda: (
            *(("engine", each) for _, each in parts.engines.breakers()),
            *(("upstream", each) for each in parts.upstreams.breakers()),
        ),
    )
    relays = Relays(lambda method, handler: server.guarded(method, handler))
    servicer = GenerationServicer(parts.generations, relays)
    server = process.make_server(
        settings.listen,
        services=[
            (add_GenerationServiceServicer_to_server, servicer),
            (add_EmbeddingServiceServicer_to_server, EmbeddingServicer(parts.embeddings)),
            (add_TelemetryServiceServicer_to_server, EngineStatusServicer(parts.engines)),
        ],
        service_names=[
            "mlxmesh.generation.v1.GenerationService",
            "mlxmesh.generation.v1.EmbeddingService",
            "mlxmesh.telemetry.v1.TelemetryService",
        ],
        # The gateway has logged each call already, so here only failed calls are logged.
        options=ServerOptions(
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_concurrent_rpcs=settings.max_concurrent_rpcs,
            log_successes=False,
            reflection=settings.reflection,
            carriers=frozenset({RELAY}),
        ),
        on_closing=relays.close,
    )
    process.live.subscribe(lambda now: server.limit_concurrent_rpcs(now.max_concurrent_rpcs))
    return server
