"""The engine's process and its server, as the settings want them."""

import sys

from mlxmesh_engine.service.backend import Backend, ModelFacts
from mlxmesh_engine.service.dispatcher import Dispatcher
from mlxmesh_engine.service.servicer import SERVICE, EngineServicer
from mlxmesh_shared.process.service_process import ServiceProcess, start_process
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import EngineSettings, LiveSettings, load_settings
from mlxmesh_shared.telemetry import new_instance_id


def start_engine_process() -> ServiceProcess[EngineSettings]:
    """Reads the command line; an engine that got no id makes one."""
    settings = load_settings(EngineSettings, sys.argv[1:])
    engine_id = settings.engine_id or new_instance_id("engine")
    settings = settings.model_copy(update={"engine_id": engine_id})
    facts = {"mlxmesh.model": settings.model, "mlxmesh.model.version": str(settings.model_version)}
    return start_process(
        LiveSettings(lambda _: settings),
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
) -> MeshServer:
    """The server with its servicer, for a model that is loaded."""
    settings = process.settings
    servicer = EngineServicer(
        dispatcher=dispatcher, backend=backend, loaded=loaded, settings=settings
    )
    return process.make_server(
        settings.listen,
        service_names=(SERVICE.full_name,),
        generic_handlers=(servicer.handlers(),),
        options=ServerOptions(log_successes=False, reflection=settings.reflection),
    )
