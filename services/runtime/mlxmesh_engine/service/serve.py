"""The engine process from its settings to its drain.

Its runtime registers it, so it does not join the mesh itself as the other services do.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Generator
from typing import Protocol

import psutil

from mlxmesh_engine.adapters.locating import LocateAdapter, directory_of
from mlxmesh_engine.constraints.compiler import ConstraintCompiler
from mlxmesh_engine.constraints.limits import ConstraintLimits
from mlxmesh_engine.groups.settings import of_rank
from mlxmesh_engine.scheduling.capacity import Admission
from mlxmesh_engine.scheduling.request import Load
from mlxmesh_engine.service.adapter_fetch import AdapterFetch
from mlxmesh_engine.service.backend import Backend, Encoder, ModelFacts
from mlxmesh_engine.service.backends import open_backend, open_encoder
from mlxmesh_engine.service.convert import limits_of
from mlxmesh_engine.service.dispatcher import Dispatcher
from mlxmesh_engine.service.follow import follow
from mlxmesh_engine.service.image_preparer import ImagePreparer
from mlxmesh_engine.service.lead import leading
from mlxmesh_engine.service.servicer import SERVICE, EngineServicer
from mlxmesh_engine.service.telemetry import SequenceSpans, StepMetrics, observe_engine
from mlxmesh_shared.errors import EngineFailed, Internal, MeshError
from mlxmesh_shared.process.service_process import ServiceProcess, start_process
from mlxmesh_shared.process.startup import (
    EXIT_WITH_PARENT,
    call_at_end_of_stdin,
    die_with_parent,
    wait_for_stop,
)
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.rpc.channels import MAX_MESSAGE_BYTES, WATCH_TIMEOUTS
from mlxmesh_shared.rpc.server import SETTLE_S, MeshServer, ServerOptions
from mlxmesh_shared.settings import EngineSettings, LiveSettings, load_with_sources
from mlxmesh_shared.telemetry import new_instance_id

Announce = Callable[[dict[str, str | bool]], None]
# A reason is for people, and the runtime reads stdout by lines of limited length.
MAX_REASON_CHARACTERS = 4000
_MIN_IMAGE_BYTES = 2**30


def follow_parent() -> None:
    """Exits at once when the runtime dies: no other process would stop or restart this engine."""
    if os.environ.get(EXIT_WITH_PARENT) == "1":
        die_with_parent()
        call_at_end_of_stdin(lambda: os._exit(0))


def take_stdout() -> Announce:
    """Writes JSON lines to the parent; whatever libraries print goes to the log instead."""
    to_parent, sys.stdout = sys.stdout, sys.stderr

    def announce(facts: dict[str, str | bool]) -> None:
        to_parent.write(json.dumps(facts) + "\n")
        to_parent.flush()

    return announce


@contextlib.contextmanager
def failures_announced(announce: Announce) -> Generator[None]:
    """Reports to the parent why this engine cannot serve, and whether a retry cannot help."""
    try:
        yield
    except MeshError as error:
        announce(
            {
                "phase": "failed",
                "permanent": not error.retryable and not isinstance(error, Internal),
                "message": error.message[:MAX_REASON_CHARACTERS],
            }
        )
        raise


def start_engine_process(
    settings: EngineSettings, origins: dict[str, str]
) -> ServiceProcess[EngineSettings]:
    """Starts with the settings of the command line; an engine that got no id makes one."""
    engine_id = settings.engine_id or new_instance_id("engine")
    settings = settings.model_copy(update={"engine_id": engine_id})
    settings = of_rank(settings) if settings.group_size > 1 or settings.group_rank else settings
    facts = {"mlxmesh.model": settings.model, "mlxmesh.model.version": str(settings.model_version)}
    return start_process(
        LiveSettings(lambda _: settings, origins),
        "engine",
        instance_id=engine_id,
        uses_data_dir=False,
        model=settings.model,
        facts=facts,
    )


def make_server(
    process: ServiceProcess[EngineSettings],
    dispatcher: Dispatcher,
    backend: Backend,
    loaded: ModelFacts,
    encoder: Encoder | None = None,
) -> MeshServer:
    """The server with its servicer, for a model that is loaded."""
    settings = process.settings
    servicer = EngineServicer(
        dispatcher=dispatcher, backend=backend, loaded=loaded, settings=settings, encoder=encoder
    )
    return process.make_server(
        settings.listen,
        service_names=(SERVICE.full_name,),
        generic_handlers=(servicer.handlers(),),
        options=ServerOptions(
            max_message_bytes=MAX_MESSAGE_BYTES,
            log_successes=False,
            reflection=settings.reflection,
        ),
    )


# How old the load may be that callers use; after a second without it the engine counts as lost by
# those whose sequences it has.
LOAD_EVERY_S = 0.3

_log = logging.getLogger(__name__)


async def serve() -> None:
    """Loads the model, then serves until a stop is requested or the backend dies."""
    # First, as it may print the help.
    settings, origins = load_with_sources(EngineSettings, sys.argv[1:], stored={})
    announce = take_stdout()
    with failures_announced(announce):
        process = start_engine_process(settings, origins)
    settings, telemetry, steps = process.settings, process.telemetry, StepMetrics()
    follow_parent()

    announce({"phase": "loading"})
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(failures_announced(announce))
        if settings.group_rank:
            await follow(process, announce)
            return
        group = None
        if settings.group_size > 1:
            group = await stack.enter_async_context(leading(process, announce))
        encoder = _open_encoder(settings)
        locate_adapter = _open_adapter_fetch(stack, process)
        lead = group.lead if group else None
        backend = encoder or open_backend(settings, steps, locate_adapter, lead=lead)
        admission = Admission(max_running=settings.max_running, max_waiting=settings.max_waiting)
        spans = SequenceSpans(telemetry.of_process.tracer)
        dispatcher = Dispatcher(backend, admission, on_end=spans.on_end)
        loaded = await backend.start(dispatcher.deliver)
        admission.set_kv_capacity(loaded.kv.capacity_tokens)
        stack.push_async_callback(backend.stop)
        dispatcher.compiler = _open_compiler(stack, settings, loaded)
        dispatcher.images = _open_images(stack, settings, loaded)
        _log.info("the model is loaded", extra={"fields": _facts(loaded)})

        observe_engine(telemetry.of_process.metrics, backend, steps)
        server = make_server(process, dispatcher, backend, loaded, encoder)
        address = await server.start()
        emitting = asyncio.create_task(emit_load(dispatcher, backend))
        if group is not None:
            group.begin_serving(leave=server.leaving.set)
        await server.set_serving()
        announce({"address": address})
        await _export_telemetry(stack, process)
        # First at the end: callers must not wait until the recorded telemetry is sent.
        stack.push_async_callback(server.drain, grace_s=1.0, settle_s=0)
        stack.callback(emitting.cancel)

        await stopped_or_dead(backend.dead, server.leaving)
        # The runtime deregisters the engine; until callers have seen that, they are not refused.
        announce({"phase": "draining"})
        await server.set_not_serving()
        await asyncio.sleep(SETTLE_S)
        await dispatcher.drain(settings.drain_grace_s)


def _open_adapter_fetch(
    stack: contextlib.AsyncExitStack, process: ServiceProcess[EngineSettings]
) -> LocateAdapter:
    """Looks only at the path of a request if the engine has no runtime."""
    if not process.settings.runtime_address:
        return directory_of
    channel = process.open_channel(
        process.settings.runtime_address, role="runtime", timeouts=WATCH_TIMEOUTS
    )
    stack.push_async_callback(channel.close)
    return AdapterFetch(channel).locate


def _open_encoder(settings: EngineSettings) -> Encoder | None:
    """None if the engine generates."""
    if settings.kind == "embedding" or settings.kind == "rerank":
        return open_encoder(settings, settings.kind)
    return None


def _open_compiler(
    stack: contextlib.AsyncExitStack, settings: EngineSettings, loaded: ModelFacts
) -> ConstraintCompiler | None:
    """None if the backend's tokens are meaningless."""
    encodes = settings.kind in ("embedding", "rerank")
    if encodes or settings.backend == "simulated" or settings.model_dir is None:
        return None
    compiler = ConstraintCompiler(
        settings.model_dir,
        vocab_size=loaded.vocab_size,
        eos_token_ids=loaded.eos_token_ids,
        limits=ConstraintLimits(
            max_characters=settings.constraint_max_characters,
            max_depth=settings.constraint_max_depth,
            compile_timeout_s=settings.constraint_compile_timeout_s,
            cache_bytes=settings.constraint_cache_bytes,
        ),
    )
    stack.callback(compiler.close)
    return compiler


def _open_images(
    stack: contextlib.AsyncExitStack, settings: EngineSettings, loaded: ModelFacts
) -> ImagePreparer | None:
    """None if the model reads no images."""
    if loaded.image_reader is None:
        return None
    max_bytes = max(_MIN_IMAGE_BYTES, psutil.virtual_memory().total // 10)
    limits = limits_of(loaded, settings.max_adapters)
    preparer = ImagePreparer(loaded.image_reader, limits, max_bytes=max_bytes)
    stack.callback(preparer.close)
    return preparer


async def _export_telemetry(
    stack: contextlib.AsyncExitStack, process: ServiceProcess[EngineSettings]
) -> None:
    """Opens a registry only where the collecting gateway has to be found by it."""
    registry = None
    if process.telemetry.goes_to_gateway:
        registry = open_registry(process.settings, process.certificates)
        stack.push_async_callback(registry.close)
    await stack.enter_async_context(process.telemetry.exporting(registry, process.certificates))


class HasLoad(Protocol):
    """A backend as far as its load goes."""

    @property
    def load(self) -> Load: ...


async def emit_load(
    dispatcher: Dispatcher, backend: HasLoad, interval_s: float = LOAD_EVERY_S
) -> None:
    """Publishes the load at intervals, and while nothing runs only until it is steady."""
    published: Load | None = None
    while True:
        load = backend.load
        if load == published:
            await dispatcher.wait_busy()
        await asyncio.sleep(interval_s)
        published = backend.load
        dispatcher.publish_load(published)


def _facts(loaded: ModelFacts) -> dict[str, object]:
    return {
        "device": loaded.device,
        "dtype": loaded.dtype,
        "dtype_note": loaded.dtype_note,
        "blas": loaded.blas,
        "weights_bytes": loaded.weights_bytes,
        "kv_token_bytes": loaded.kv.token_bytes,
        "kv_capacity_bytes": loaded.kv.capacity_bytes,
    }


async def stopped_or_dead(dead: asyncio.Future[None], leaving: asyncio.Event | None = None) -> None:
    """Returns when a stop is requested. Raises: EngineFailed when the backend died.

    A dead backend ends the process: behind a healthy server it would accept requests for ever.
    """
    stop = asyncio.create_task(wait_for_stop(leaving))
    await asyncio.wait({stop, dead}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if dead.done():
        raise EngineFailed("the backend died; see the log above") from dead.exception()
