"""Builds the model service from its settings."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

from mlxmesh.model.v1 import history_pb2_grpc, model_pb2_grpc, rollout_pb2_grpc
from mlxmesh_model.artifacts.hub import Hub, HubOnDemand
from mlxmesh_model.artifacts.imports import Imports
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.history import history
from mlxmesh_model.history.history import History
from mlxmesh_model.history.maintenance import HistoryMaintenance
from mlxmesh_model.history.servicer import HistoryServicer
from mlxmesh_model.model_events import publish_change, publish_rejection
from mlxmesh_model.outcomes.recorder import Recorder
from mlxmesh_model.replicas.leader import LeaderLock
from mlxmesh_model.replicas.lease import FileLeadership, Leadership, Lease
from mlxmesh_model.replicas.loader import Loader
from mlxmesh_model.replicas.reconciler import Reconciler
from mlxmesh_model.replicas.rejections import Rejections
from mlxmesh_model.replicas.runtimes import GrpcRuntimes
from mlxmesh_model.rollouts.assembly import Rollouts, make_rollouts
from mlxmesh_model.servicer import ModelServicer
from mlxmesh_shared.events import Publish
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Registry, follow_others
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import ModelSettings
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile, database_url


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The catalogue, and everything that changes it or acts on it."""

    store: Store
    runtimes: GrpcRuntimes
    pulls: Pulls
    imports: Imports
    rejections: Rejections
    reconciler: Reconciler
    recorder: Recorder
    history_maintenance: HistoryMaintenance
    leader: Leadership
    rollouts: Rollouts
    registry: Registry
    instance_id: str

    async def recover(self) -> None:
        """Marks the pulls and removes the imports that a previous process left unfinished."""
        await self.pulls.recover()
        await self.imports.recover()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Reconciles and follows runtimes and other instances until the body ends."""
        others = asyncio.Event()
        return running_in_background(
            self._lead(),
            self.runtimes.watch(self.reconciler.wake),
            follow_others(self.registry, "model", self.instance_id, others),
            self.store.poll_changes(others=others),
        )

    async def _lead(self) -> None:
        """One instance reconciles at a time: each of two would place the missing replicas."""
        while True:
            await self.leader.acquire()
            await self.recover()
            async with running_in_background(
                self.reconciler.run(),
                self._reconcile_changes(),
                self.rollouts.controller.run(),
                self.history_maintenance.run(),
            ):
                await self.leader.keep()

    async def _reconcile_changes(self) -> None:
        """What rollouts and other instances load and unload is reconciled at once."""
        with self.store.subscribe() as changed:
            while True:
                await changed.wait()
                changed.clear()
                self.reconciler.wake()


async def open_catalogue(
    stack: AsyncExitStack,
    process: ServiceProcess[ModelSettings],
    registry: Registry,
    publish: Publish,
) -> Catalogue:
    """Opens the database and the connections to runtimes, which the stack closes."""
    settings = process.settings
    url = _database_url(settings)
    store = await Store.open(url, partial(publish_change, publish))
    stack.push_async_callback(store.close)
    runtimes = GrpcRuntimes(registry, grace_s=settings.runtime_grace_s, open_=process.open_channel)
    stack.push_async_callback(runtimes.close)
    rejections = Rejections(partial(publish_rejection, publish))
    models_dir = settings.models_dir or settings.data_dir / "models"
    leader = _leadership(url, store, process.instance_id)
    stack.push_async_callback(leader.release)
    rollouts = make_rollouts(store, publish, process.telemetry.of_process.metrics)
    return Catalogue(
        store=store,
        runtimes=runtimes,
        pulls=Pulls(
            store=store,
            hub=HubOnDemand(partial(_open_hub, settings.hub_endpoint)),
            models_dir=models_dir,
        ),
        imports=Imports(store=store, models_dir=models_dir),
        rejections=rejections,
        reconciler=Reconciler(
            store=store,
            runtimes=runtimes,
            interval_s=settings.reconcile_interval_s,
            rejections=rejections,
            leadership=leader,
        ),
        recorder=Recorder(store, [history.count, rollouts.counter]),
        history_maintenance=HistoryMaintenance(
            store,
            hourly_days=settings.hourly_history_days,
            daily_days=settings.daily_history_days,
        ),
        leader=leader,
        rollouts=rollouts,
        registry=registry,
        instance_id=process.instance_id,
    )


def make_server(process: ServiceProcess[ModelSettings], catalogue: Catalogue) -> MeshServer:
    """The server with its servicer."""
    servicer = ModelServicer(
        store=catalogue.store,
        pulls=catalogue.pulls,
        imports=catalogue.imports,
        loader=Loader(store=catalogue.store, wake_reconciler=catalogue.reconciler.wake),
        rejections=catalogue.rejections.of,
    )
    settings = process.settings
    return process.make_server(
        settings.listen,
        services=[
            (model_pb2_grpc.add_ModelServiceServicer_to_server, servicer),
            (
                history_pb2_grpc.add_HistoryServiceServicer_to_server,
                HistoryServicer(catalogue.recorder, History(catalogue.store)),
            ),
            (
                rollout_pb2_grpc.add_RolloutServiceServicer_to_server,
                catalogue.rollouts.servicer,
            ),
        ],
        service_names=[
            "mlxmesh.model.v1.ModelService",
            "mlxmesh.model.v1.HistoryService",
            "mlxmesh.model.v1.RolloutService",
        ],
        options=ServerOptions(reflection=settings.reflection),
    )


def _open_hub(endpoint: str) -> Hub:
    # Not at the top: its libraries are slow to import and only a pull needs them.
    from mlxmesh_model.artifacts.huggingface import HuggingFaceHub

    return HuggingFaceHub(endpoint)


def _leadership(url: DatabaseUrl, store: Store, instance_id: str) -> Leadership:
    if isinstance(url, SqliteFile):
        return FileLeadership(LeaderLock(url.path.with_suffix(".lock")))
    return Lease(store.transactions, instance_id)


def _database_url(settings: ModelSettings) -> DatabaseUrl:
    if settings.database_url:
        return database_url(settings.database_url)
    return SqliteFile(settings.data_dir / "model.db")
