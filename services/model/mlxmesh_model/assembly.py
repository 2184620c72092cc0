"""Builds the model service from its settings."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

from mlxmesh.model.v1 import model_pb2_grpc, profile_pb2_grpc
from mlxmesh_model.artifacts.hub import Hub, HubOnDemand
from mlxmesh_model.artifacts.imports import Imports
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.model_events import publish_adjustment, publish_change, publish_rejection
from mlxmesh_model.profiles.servicer import ProfileServicer
from mlxmesh_model.profiles.store import Profiles
from mlxmesh_model.replicas.demand import Demand
from mlxmesh_model.replicas.leader import LeaderLock
from mlxmesh_model.replicas.loader import Loader
from mlxmesh_model.replicas.policy_pass import PolicyPass, PolicySettings
from mlxmesh_model.replicas.reconciler import Reconciler
from mlxmesh_model.replicas.rejections import Rejections
from mlxmesh_model.replicas.runtimes import GrpcRuntimes
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
    policies: PolicyPass
    reconciler: Reconciler
    leader: LeaderLock
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
            self._reconcile(),
            self.runtimes.watch(self.reconciler.wake),
            follow_others(self.registry, "model", self.instance_id, others),
            self.store.poll_changes(others=others),
            self._wake_reconciler_on_changes(),
        )

    async def _wake_reconciler_on_changes(self) -> None:
        """Another instance may change the catalogue while this one reconciles."""
        with self.store.subscribe() as changed:
            while True:
                await changed.wait()
                changed.clear()
                self.reconciler.wake()

    async def _reconcile(self) -> None:
        """One instance reconciles at a time: each of two would place the missing replicas."""
        await self.leader.acquire()
        await self.recover()
        await self.reconciler.run()


async def open_catalogue(
    stack: AsyncExitStack,
    process: ServiceProcess[ModelSettings],
    registry: Registry,
    publish: Publish,
) -> Catalogue:
    """Opens the database and the connections to runtimes, which the stack closes."""
    settings = process.settings
    store = await Store.open(_database_url(settings), partial(publish_change, publish))
    stack.push_async_callback(store.close)
    runtimes = GrpcRuntimes(registry, grace_s=settings.runtime_grace_s, open_=process.open_channel)
    stack.push_async_callback(runtimes.close)
    rejections = Rejections(partial(publish_rejection, publish))
    models_dir = settings.models_dir or settings.data_dir / "models"
    leader = LeaderLock(settings.data_dir / "model.lock")
    stack.callback(leader.release)
    policies = PolicyPass(
        store=store,
        settings=PolicySettings(settings.load_on_demand, settings.max_engines_per_runtime),
        on_adjustment=partial(publish_adjustment, publish),
    )
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
        policies=policies,
        reconciler=Reconciler(
            store=store,
            runtimes=runtimes,
            interval_s=settings.reconcile_interval_s,
            rejections=rejections,
            policies=policies,
        ),
        leader=leader,
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
        demand=Demand(
            store=catalogue.store,
            wake_reconciler=catalogue.reconciler.wake,
            note_use=catalogue.policies.note_use,
            on_demand_default=process.settings.load_on_demand,
        ),
        rejections=catalogue.rejections.of,
    )
    settings = process.settings
    return process.make_server(
        settings.listen,
        services=[
            (model_pb2_grpc.add_ModelServiceServicer_to_server, servicer),
            (
                profile_pb2_grpc.add_ProfileServiceServicer_to_server,
                ProfileServicer(Profiles(catalogue.store.transactions)),
            ),
        ],
        service_names=["mlxmesh.model.v1.ModelService", "mlxmesh.model.v1.ProfileService"],
        options=ServerOptions(reflection=settings.reflection),
    )


def _open_hub(endpoint: str) -> Hub:
    # Not at the top: its libraries are slow to import and only a pull needs them.
    from mlxmesh_model.artifacts.huggingface import HuggingFaceHub

    return HuggingFaceHub(endpoint)


def _database_url(settings: ModelSettings) -> DatabaseUrl:
    if settings.database_url:
        return database_url(settings.database_url)
    return SqliteFile(settings.data_dir / "model.db")
