"""The model service: `python -m mlxmesh_model`."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import end_at_interrupt

    end_at_interrupt()  # the imports below take a while

import asyncio
import sys
from contextlib import AsyncExitStack
from functools import partial

from sqlalchemy import URL

from mlxmesh.model.v1 import model_pb2_grpc
from mlxmesh_model.artifacts.hub import Hub, HubOnDemand
from mlxmesh_model.artifacts.imports import Imports
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.catalogue.database_urls import database_url, sqlite_url
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.model_events import publish_change, publish_rejection
from mlxmesh_model.replicas.leader import LeaderLock
from mlxmesh_model.replicas.loader import Loader
from mlxmesh_model.replicas.reconciler import Reconciler
from mlxmesh_model.replicas.rejections import Rejections
from mlxmesh_model.replicas.runtimes import GrpcRuntimes
from mlxmesh_model.servicer import ModelServicer
from mlxmesh_shared.events import publishing
from mlxmesh_shared.process.live import following
from mlxmesh_shared.process.startup import check_data_dir, run_service, wait_for_stop
from mlxmesh_shared.registry import local_instance, open_registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import ModelSettings, live_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json
from mlxmesh_shared.telemetry.calls import ServedCalls
from mlxmesh_shared.telemetry.setup import ProcessTelemetry
from mlxmesh_shared.tls import CertificateSource, ServerTls, open_certificates

SERVICE = "model"


async def main() -> None:
    """The story of the process."""
    live = live_settings(ModelSettings, sys.argv[1:])
    settings = live.current
    check_data_dir(settings.data_dir)
    instance_id = new_instance_id(SERVICE)
    setup_logging(
        service=SERVICE,
        instance_id=instance_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    telemetry = ProcessTelemetry(settings, SERVICE, instance_id)
    async with AsyncExitStack() as stack:
        certificates = open_certificates(settings, SERVICE)
        registry = open_registry(settings, certificates)
        stack.push_async_callback(registry.close)
        await stack.enter_async_context(following(live, SERVICE))
        await stack.enter_async_context(telemetry.exporting(registry, certificates))
        events = await stack.enter_async_context(
            publishing(
                live, registry, service=SERVICE, instance_id=instance_id, certificates=certificates
            )
        )
        store = await Store.open(_database_url(settings), partial(publish_change, events.publish))
        stack.push_async_callback(store.close)
        runtimes = GrpcRuntimes(
            registry,
            grace_s=settings.runtime_grace_s,
            open_=partial(open_channel, certificates=certificates),
        )
        stack.push_async_callback(runtimes.close)
        rejections = Rejections(partial(publish_rejection, events.publish))
        reconciler = Reconciler(
            store=store,
            runtimes=runtimes,
            interval_s=settings.reconcile_interval_s,
            rejections=rejections,
        )
        models_dir = settings.models_dir or settings.data_dir / "models"
        pulls = Pulls(
            store=store,
            hub=HubOnDemand(partial(_open_hub, settings.hub_endpoint)),
            models_dir=models_dir,
        )
        imports = Imports(store=store, models_dir=models_dir)
        leader = LeaderLock(settings.data_dir / "model.lock")
        stack.callback(leader.release)
        if leader.try_acquire():
            # Before the server accepts calls for them.
            await pulls.recover()
            await imports.recover()
            # From here on the catalogue reflects what runs now, not what ran when it was written.
            await reconciler.reconcile()
        watcher = ServedCalls(telemetry.of_process)
        servicer = ModelServicer(
            store=store,
            pulls=pulls,
            imports=imports,
            loader=Loader(store=store, wake_reconciler=reconciler.wake),
            rejections=rejections.of,
        )
        server = _server(settings, servicer, certificates, watcher)
        address = await server.start()
        instance = local_instance(settings, SERVICE, instance_id, address)
        async with asyncio.TaskGroup() as background:
            loops = [
                background.create_task(_lead(leader, pulls, imports, reconciler)),
                background.create_task(runtimes.watch(reconciler.wake)),
                background.create_task(store.poll_changes()),
            ]
            await server.set_serving()
            await registry.register(instance)
            await wait_for_stop(server.leaving)
            await registry.deregister(instance)
            # Running calls may wait for the reconciler, so it stops last.
            await server.drain(settings.drain_grace_s)
            for loop in loops:
                loop.cancel()


async def _lead(leader: LeaderLock, pulls: Pulls, imports: Imports, reconciler: Reconciler) -> None:
    """Reconciles while this process is the leader: two reconcilers would both place replicas."""
    await leader.acquire()
    await pulls.recover()
    await imports.recover()
    await reconciler.run()


def _open_hub(endpoint: str) -> Hub:
    # Imported late: its libraries are slow to import and only a pull needs them.
    from mlxmesh_model.artifacts.huggingface import HuggingFaceHub

    return HuggingFaceHub(endpoint)


def _server(
    settings: ModelSettings,
    servicer: ModelServicer,
    certificates: CertificateSource | None,
    watcher: ServedCalls,
) -> MeshServer:
    return MeshServer(
        listen=settings.listen,
        services=[(model_pb2_grpc.add_ModelServiceServicer_to_server, servicer)],
        service_names=["mlxmesh.model.v1.ModelService"],
        options=ServerOptions(reflection=settings.reflection),
        name=SERVICE,
        tls=certificates and ServerTls(certificates),
        watcher=watcher,
    )


def _database_url(settings: ModelSettings) -> URL:
    if settings.database_url:
        return database_url(settings.database_url)
    return sqlite_url(settings.data_dir / "model.db")


if __name__ == "__main__":
    sys.exit(run_service(main))
