"""The story of the engine process."""

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from mlxmesh_engine.admission import Admission
from mlxmesh_engine.blas import MEND, Blas
from mlxmesh_engine.dispatcher import Dispatcher
from mlxmesh_engine.loader import LoadedModel, load
from mlxmesh_engine.mlx_thread import LoopOptions, MlxThread
from mlxmesh_engine.servicer import SERVICE, EngineServicer
from mlxmesh_shared.errors import EngineFailed, InvalidArgument
from mlxmesh_shared.process import EXIT_WITH_PARENT, die_with_parent, wait_for_stop
from mlxmesh_shared.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import EngineSettings, load_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json

_log = logging.getLogger(__name__)

Announce = Callable[[dict[str, str]], None]


async def serve(blas: Blas) -> None:
    settings = load_settings(EngineSettings, sys.argv[1:])
    engine_id = settings.engine_id or new_instance_id("engine")
    settings = settings.model_copy(update={"engine_id": engine_id})
    setup_logging(
        service="engine",
        instance_id=engine_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    _follow_parent()
    announce = _announcer()
    if blas == "reference":
        _log.warning(MEND)

    announce({"phase": "loading"})
    async with contextlib.AsyncExitStack() as stack:
        thread = MlxThread(partial(_load_model, settings, blas), _loop_options(settings))
        admission = Admission(max_running=settings.max_running, max_waiting=settings.max_waiting)
        dispatcher = Dispatcher(thread, admission)
        loaded = await thread.start(dispatcher.deliver)
        stack.push_async_callback(thread.stop)
        _log.info("the model is loaded", extra={"fields": _facts(loaded)})

        servicer = EngineServicer(
            dispatcher=dispatcher, thread=thread, loaded=loaded, settings=settings
        )
        server = MeshServer(
            listen=settings.listen,
            services=(),
            service_names=(SERVICE.full_name,),
            generic_handlers=(servicer.handlers(),),
            options=ServerOptions(log_successes=False),
            name="engine",
        )
        address = await server.start()
        stack.push_async_callback(server.drain, grace_s=1.0)
        await server.set_serving()
        announce({"address": address})

        await stopped_or_dead(thread.dead)
        await server.set_not_serving()
        await dispatcher.drain(settings.drain_grace_s)


def _load_model(settings: EngineSettings, blas: Blas) -> LoadedModel:
    return load(
        _model_dir(settings),
        blas=blas,
        dtype=settings.dtype,
        context_tokens=settings.context_tokens,
        available_bytes=lambda: psutil.virtual_memory().available,
    )


def _model_dir(settings: EngineSettings) -> Path:
    if settings.model_dir is None:
        raise InvalidArgument("name a model: --model-dir DIRECTORY", field="model_dir")
    return settings.model_dir


def _loop_options(settings: EngineSettings) -> LoopOptions:
    return LoopOptions(
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        prefill_tokens_per_step=settings.prefill_tokens_per_step,
    )


def _facts(loaded: LoadedModel) -> dict[str, object]:
    return {
        "device": loaded.device,
        "dtype": loaded.dtype,
        "dtype_note": loaded.dtype_note,
        "blas": loaded.blas,
        "weights_bytes": loaded.weights_bytes,
    }


async def stopped_or_dead(dead: asyncio.Future[None]) -> None:
    """Returns when the process is asked to stop. Raises: EngineFailed when the MLX thread died.

    A dead thread ends the process: behind a healthy server it would take requests for ever.
    """
    stop = asyncio.create_task(wait_for_stop())
    await asyncio.wait({stop, dead}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if dead.done():
        raise EngineFailed("the MLX thread died; see the log above") from dead.exception()


def _announcer() -> Announce:
    """Writes JSON lines to the parent; stray prints of libraries go to the log instead."""
    to_parent, sys.stdout = sys.stdout, sys.stderr

    def announce(news: dict[str, str]) -> None:
        to_parent.write(json.dumps(news) + "\n")
        to_parent.flush()

    return announce


def _follow_parent() -> None:
    """Exits at once when the runtime dies: nobody is left to stop or restart this engine."""
    if os.environ.get(EXIT_WITH_PARENT) != "1":
        return
    die_with_parent()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(0)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
