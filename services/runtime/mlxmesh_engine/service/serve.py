"""The story of the engine process."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Generator

from mlxmesh_engine.scheduling.capacity import Admission
from mlxmesh_engine.service.backend import Backend, ModelFacts
from mlxmesh_engine.service.backends import open_backend
from mlxmesh_engine.service.dispatcher import Dispatcher
from mlxmesh_engine.service.servicer import SERVICE, EngineServicer
from mlxmesh_engine.service.step_metrics import StepMetrics
from mlxmesh_engine.service.telemetry import SequenceSpans, observe_engine
from mlxmesh_shared.errors import EngineFailed, Internal, MeshError
from mlxmesh_shared.process.startup import (
    EXIT_WITH_PARENT,
    call_at_end_of_stdin,
    die_with_parent,
    wait_for_stop,
)
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.rpc.server import SETTLE_S, MeshServer, ServerOptions
from mlxmesh_shared.settings import EngineSettings, load_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json
from mlxmesh_shared.telemetry.calls import ServedCalls
from mlxmesh_shared.telemetry.setup import ProcessTelemetry
from mlxmesh_shared.tls import CertificateSource, ServerTls, open_certificates

# How old the load may be that a caller goes by; after a second without it we count as lost.
LOAD_EVERY_S = 0.3

_log = logging.getLogger(__name__)

Announce = Callable[[dict[str, str | bool]], None]
# A reason is for people, and a line on stdout has a limit.
MAX_REASON_CHARACTERS = 4000


async def serve() -> None:
    settings = _settings()
    certificates = open_certificates(settings, "engine")
    telemetry, steps = _telemetry(settings), StepMetrics()
    _follow_parent()
    announce = _announcer()

    announce({"phase": "loading"})
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_failures_announced(announce))
        backend = open_backend(settings, steps)
        admission = Admission(max_running=settings.max_running, max_waiting=settings.max_waiting)
        spans = SequenceSpans(telemetry.of_process.tracer)
        dispatcher = Dispatcher(backend, admission, on_end=spans.on_end)
        loaded = await backend.start(dispatcher.deliver)
        admission.set_kv_capacity(loaded.kv.capacity_tokens)
        stack.push_async_callback(backend.stop)
        _log.info("the model is loaded", extra={"fields": _facts(loaded)})

        servicer = EngineServicer(
            dispatcher=dispatcher, backend=backend, loaded=loaded, settings=settings
        )
        observe_engine(telemetry.of_process.metrics, backend, steps)
        watcher = ServedCalls(telemetry.of_process)
        server = _server(settings, servicer, certificates, watcher)
        address = await server.start()
        telling = asyncio.create_task(_tell_load(dispatcher, backend))
        await server.set_serving()
        announce({"address": address})
        registry = None
        if telemetry.goes_to_gateway:
            registry = open_registry(settings, certificates)
            stack.push_async_callback(registry.close)
        await stack.enter_async_context(telemetry.exporting(registry, certificates))
        # First of all at the end: callers must not wait until what was recorded is sent.
        stack.push_async_callback(server.drain, grace_s=1.0, settle_s=0)
        stack.callback(telling.cancel)

        await stopped_or_dead(backend.dead, server.leaving)
        # The runtime withdraws the engine's record; until callers know, they are not refused.
        announce({"phase": "draining"})
        await server.set_not_serving()
        await asyncio.sleep(SETTLE_S)
        await dispatcher.drain(settings.drain_grace_s)


def _settings() -> EngineSettings:
    """With an engine id, and logging set up as they say."""
    settings = load_settings(EngineSettings, sys.argv[1:])
    engine_id = settings.engine_id or new_instance_id("engine")
    setup_logging(
        service="engine",
        instance_id=engine_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    return settings.model_copy(update={"engine_id": engine_id})


def _server(
    settings: EngineSettings,
    servicer: EngineServicer,
    certificates: CertificateSource | None,
    watcher: ServedCalls,
) -> MeshServer:
    return MeshServer(
        listen=settings.listen,
        services=(),
        service_names=(SERVICE.full_name,),
        generic_handlers=(servicer.handlers(),),
        options=ServerOptions(log_successes=False, reflection=settings.reflection),
        name="engine",
        tls=certificates and ServerTls(certificates),
        watcher=watcher,
    )


def _telemetry(settings: EngineSettings) -> ProcessTelemetry:
    facts = {"mlxmesh.model": settings.model, "mlxmesh.model.version": str(settings.model_version)}
    return ProcessTelemetry(
        settings, "engine", settings.engine_id, model=settings.model, facts=facts
    )


async def _tell_load(dispatcher: Dispatcher, backend: Backend) -> None:
    while True:
        await asyncio.sleep(LOAD_EVERY_S)
        dispatcher.publish_load(backend.load)


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
    """Returns when the process is asked to stop. Raises: EngineFailed when the backend died.

    A dead backend ends the process: behind a healthy server it would take requests for ever.
    """
    stop = asyncio.create_task(wait_for_stop(leaving))
    await asyncio.wait({stop, dead}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if dead.done():
        raise EngineFailed("the backend died; see the log above") from dead.exception()


def _announcer() -> Announce:
    """Writes JSON lines to the parent; stray prints of libraries go to the log instead."""
    to_parent, sys.stdout = sys.stdout, sys.stderr

    def announce(outputs: dict[str, str | bool]) -> None:
        to_parent.write(json.dumps(outputs) + "\n")
        to_parent.flush()

    return announce


@contextlib.contextmanager
def _failures_announced(announce: Announce) -> Generator[None]:
    """Tells the parent why there is no serving; it need not try again what can never work."""
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


def _follow_parent() -> None:
    """Exits at once when the runtime dies: nobody is left to stop or restart this engine."""
    if os.environ.get(EXIT_WITH_PARENT) == "1":
        die_with_parent()
        call_at_end_of_stdin(lambda: os._exit(0))
