"""Builds the model service from its settings."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

from mlxmesh.artifact.v1.transfer_pb2_grpc import add_TransferServiceServicer_to_server
from mlxmesh.model.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from mlxmesh_model.adapters.additions import Additions
from mlxmesh_model.adapters.servicer import AdapterServicer
from mlxmesh_model.adapters.store import Adapters
from mlxmesh_model.artifacts.hub import Hub, HubOnDemand
from mlxmesh_model.artifacts.imports import Imports
from mlxmesh_model.artifacts.inventory import Inventory
from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.artifacts.served_files import CatalogueFiles
from mlxmesh_model.artifacts.servicer import ArtifactServicer
from mlxmesh_model.artifacts.verification import Verification
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.experiments.store import Experiments
from mlxmesh_model.hub.assembly import make_hub
from mlxmesh_model.model_events import publish_adjustment, publish_change, publish_rejection
from mlxmesh_model.replicas.demand import Demand
from mlxmesh_model.replicas.fetches import Fetches
from mlxmesh_model.replicas.groups import Groups
from mlxmesh_model.replicas.lease import FileLeadership, Leadership, Lease
from mlxmesh_model.replicas.loader import Loader
from mlxmesh_model.replicas.policy_pass import PolicyPass, PolicySettings
from mlxmesh_model.replicas.reconciler import Reconciler
from mlxmesh_model.replicas.rejections import Rejections
from mlxmesh_model.replicas.runtimes import GrpcRuntimes
from mlxmesh_model.servicer import ModelServicer
from mlxmesh_model.topics import Topic, TopicParts, make_topics
from mlxmesh_model.upstreams.health import UpstreamHealth
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.known_digests import KnownDigests
from mlxmesh_shared.artifacts.servicer import SERVICE as TRANSFER_SERVICE
from mlxmesh_shared.artifacts.servicer import TransferServicer
from mlxmesh_shared.artifacts.uploads import Uploads
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.events import Publish
from mlxmesh_shared.host.file_lock import FileLock
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Registry, follow_others
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import ModelSettings
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile, database_url

_log = logging.getLogger(__name__)

_RECOVERY_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The catalogue, and everything that changes it or acts on it."""

    store: Store
    runtimes: GrpcRuntimes
    pulls: Pulls
    imports: Imports
    pruning: Pruning
    rejections: Rejections
    fetches: Fetches
    groups: Groups
    known: KnownDigests
    served: CatalogueFiles
    uploads: Uploads
    policies: PolicyPass
    reconciler: Reconciler
    leader: Leadership
    topics: tuple[Topic, ...]
    registry: Registry
    instance_id: str

    async def recover(self) -> None:
        """Marks the pulls and removes the imports that a previous process left unfinished."""
        services = await self.registry.resolve("model")
        others = any(each.instance_id != self.instance_id for each in services)
        await self.pulls.recover(alone=not others)
        await self.imports.recover()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Reconciles and follows runtimes and other instances until the body ends."""
        others = asyncio.Event()
        return running_in_background(
            self._lead(),
            self.runtimes.watch(self.reconciler.wake),
            follow_others(self.registry, "model", self.instance_id, others),
            self.store.poll_changes(others=others),
            self._wake_reconciler_on_changes(),
            *(each(others) for topic in self.topics for each in topic.work),
        )

    async def _wake_reconciler_on_changes(self) -> None:
        """Another instance may change the catalogue while this one reconciles."""
        with self.store.subscribe() as changed:
            while True:
                await changed.wait()
                changed.clear()
                self.reconciler.wake()

    async def _lead(self) -> None:
        """One instance reconciles at a time: each of two would place the missing replicas."""
        work = [each for topic in self.topics for each in topic.work_of_leader]
        while True:
            await self.leader.acquire()
            try:
                await self.recover()
            except MeshError as error:
                _log.warning("the leader cannot begin yet: %s", error.message)
                await asyncio.sleep(_RECOVERY_PAUSE_S)
                continue
            health = UpstreamHealth(self.store)
            async with running_in_background(
                self.reconciler.run(), health.run(), *(each() for each in work)
            ):
                await self.leader.keep()


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
    runtimes, shown_runtimes = (
        GrpcRuntimes(registry, grace_s=settings.runtime_grace_s, open_=process.open_channel)
        for _ in range(2)
    )
    stack.push_async_callback(runtimes.close)
    stack.push_async_callback(shown_runtimes.close)
    rejections = Rejections(partial(publish_rejection, publish))
    fetches, groups = Fetches(), Groups()
    known = KnownDigests(settings.data_dir / "registered_digests.json")
    uploads = Uploads()
    uploads.observe(process.telemetry.of_process.metrics)
    blobs = BlobStore(settings.models_dir or settings.data_dir / "models")
    pruning = Pruning(store=store, blobs=blobs)
    leader = _leadership(url, store, process.instance_id)
    stack.push_async_callback(leader.release)
    policies = PolicyPass(
        store=store,
        settings=PolicySettings(settings.load_on_demand, settings.max_engines_per_runtime),
        on_adjustment=partial(publish_adjustment, publish),
        read_needed=Experiments(store).needed,
    )
    reconciler = Reconciler(
        store=store,
        runtimes=runtimes,
        interval_s=settings.reconcile_interval_s,
        rejections=rejections,
        observers=(fetches.observe, groups.observe),
        leadership=leader,
        policies=policies,
    )
    pulls = Pulls(
        store=store,
        hub=HubOnDemand(partial(_open_hub, settings.hub_endpoint)),
        blobs=blobs,
        pruning=pruning,
    )
    adapters = Adapters(store)
    parts = TopicParts(
        store=store,
        settings=settings,
        publish=publish,
        metrics=process.telemetry.of_process.metrics,
        wake_reconciler=reconciler.wake,
        in_use=policies.in_use,
        artifacts=ArtifactServicer(
            inventory=Inventory(store=store, blobs=blobs, pruning=pruning),
            verification=Verification(store=store, blobs=blobs),
            pruning=pruning,
            prune_fetched=shown_runtimes.prune,
        ),
        adapters=AdapterServicer(adapters, Additions(adapters, blobs)),
        hub=make_hub(
            store=store,
            pulls=pulls,
            pruning=pruning,
            runtimes=shown_runtimes,
            endpoint=settings.hub_endpoint,
            wake_reconciler=reconciler.wake,
        ),
    )
    return Catalogue(
        store=store,
        runtimes=runtimes,
        pulls=pulls,
        imports=Imports(store=store, blobs=blobs),
        pruning=pruning,
        rejections=rejections,
        fetches=fetches,
        groups=groups,
        known=known,
        served=CatalogueFiles(store=store, blobs=blobs, known=known),
        uploads=uploads,
        policies=policies,
        reconciler=reconciler,
        leader=leader,
        topics=make_topics(parts),
        registry=registry,
        instance_id=process.instance_id,
    )


def make_server(process: ServiceProcess[ModelSettings], catalogue: Catalogue) -> MeshServer:
    """The server with its servicer."""
    servicer = ModelServicer(
        store=catalogue.store,
        pulls=catalogue.pulls,
        imports=catalogue.imports,
        pruning=catalogue.pruning,
        loader=Loader(
            store=catalogue.store,
            wake_reconciler=catalogue.reconciler.wake,
            fetches=catalogue.fetches.of,
        ),
        demand=Demand(
            store=catalogue.store,
            wake_reconciler=catalogue.reconciler.wake,
            note_use=catalogue.policies.note_use,
            on_demand_default=process.settings.load_on_demand,
        ),
        rejections=catalogue.rejections.of,
        fetches=catalogue.fetches.of,
        groups=catalogue.groups.of,
        sha256_of=catalogue.known.sha256,
    )
    transfers = TransferServicer(catalogue.served, catalogue.uploads)
    settings = process.settings
    return process.make_server(
        settings.listen,
        services=[
            (add_ModelServiceServicer_to_server, servicer),
            (add_TransferServiceServicer_to_server, transfers),
            *((topic.add, topic.servicer) for topic in catalogue.topics),
        ],
        service_names=[
            TRANSFER_SERVICE,
            *(
                f"mlxmesh.model.v1.{name}"
                for name in ("ModelService", *(topic.service for topic in catalogue.topics))
            ),
        ],
        options=ServerOptions(reflection=settings.reflection),
    )


def _open_hub(endpoint: str) -> Hub:
    # Not at the top: its libraries are slow to import and only a pull needs them.
    from mlxmesh_model.artifacts.huggingface import HuggingFaceHub

    return HuggingFaceHub(endpoint)


def _leadership(url: DatabaseUrl, store: Store, instance_id: str) -> Leadership:
    if isinstance(url, SqliteFile):
        return FileLeadership(FileLock(url.path.with_suffix(".lock")))
    return Lease(store.transactions, instance_id)


def _database_url(settings: ModelSettings) -> DatabaseUrl:
    if settings.database_url:
        return database_url(settings.database_url)
    return SqliteFile(settings.data_dir / "model.db")
