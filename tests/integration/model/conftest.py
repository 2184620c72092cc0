"""A model service with real SQL and real gRPC in this process, and fake runtimes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from mlxmesh.model.v1 import (
    artifact_pb2_grpc,
    hub_pb2_grpc,
    model_pb2_grpc,
    profile_pb2_grpc,
    shadow_pb2_grpc,
)
from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_model.artifacts.huggingface import HuggingFaceHub
from mlxmesh_model.artifacts.imports import Imports
from mlxmesh_model.artifacts.inventory import Inventory
from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.artifacts.servicer import ArtifactServicer
from mlxmesh_model.artifacts.verification import Verification
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.hub.assembly import make_hub
from mlxmesh_model.model_events import publish_adjustment, publish_change, publish_rejection
from mlxmesh_model.profiles.servicer import ProfileServicer
from mlxmesh_model.profiles.store import Profiles
from mlxmesh_model.replicas.demand import Demand
from mlxmesh_model.replicas.fetch_retries import FetchRetries
from mlxmesh_model.replicas.fetches import Fetches
from mlxmesh_model.replicas.groups import Groups
from mlxmesh_model.replicas.loader import Loader
from mlxmesh_model.replicas.policy_pass import PolicyPass, PolicySettings
from mlxmesh_model.replicas.reconciler import Reconciler
from mlxmesh_model.replicas.rejections import Rejections
from mlxmesh_model.replicas.runtimes import GrpcRuntimes
from mlxmesh_model.replicas.scaling import Scaling, ScalingRules
from mlxmesh_model.servicer import ModelServicer
from mlxmesh_model.shadows.convert import to_event as shadow_event
from mlxmesh_model.shadows.servicer import ShadowServicer
from mlxmesh_model.shadows.store import Shadows
from mlxmesh_model.upstreams.health import UpstreamHealth
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.disk import Disk
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.databases import sqlite_with_tables
from tests.fakes.model_directory import write_model
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.runtime import FakeHost, FakeRuntime


@dataclass
class ModelService:
    """A running model service, its client and its dependencies."""

    stub: model_pb2_grpc.ModelServiceStub
    artifacts: artifact_pb2_grpc.ArtifactServiceStub
    profiles: profile_pb2_grpc.ProfileServiceStub
    store: Store
    registry: InMemoryRegistry
    tmp_path: Path
    address: str
    shadows: shadow_pb2_grpc.ShadowServiceStub
    hub: hub_pb2_grpc.HubServiceStub

    async def register(self, name: str = "pocket", *, rows: int = 8) -> pb.RegisterModelResponse:
        """Registers a small model directory; other rows make another version."""
        directory = write_model(self.tmp_path / f"{name}-{rows}", rows=rows)
        return await self.stub.RegisterModel(
            pb.RegisterModelRequest(name=name, directory=str(directory))
        )

    async def load(
        self, model: str = "pocket", *, replicas: int = 1, profile: str = "", **group: Any
    ) -> pb.ModelVersion:
        """Loads a model and returns the version of the last message."""
        request = pb.LoadModelRequest(model=model, replicas=replicas, profile=profile, **group)
        messages = [message async for message in self.stub.LoadModel(request)]
        return messages[-1].version

    async def model(self, model: str = "pocket") -> pb.Model:
        """The model in its present state."""
        return (await self.stub.GetModel(pb.GetModelRequest(model=model))).model

    async def version(self, model: str = "pocket@1") -> pb.ModelVersion:
        """One version in its present state."""
        return (await self.model(model)).versions[0]

    async def until(
        self, model: str, condition: Callable[[pb.ModelVersion], bool]
    ) -> pb.ModelVersion:
        """Waits until a version satisfies the condition, and returns it as it was then."""
        while not condition(version := await self.version(model)):
            await asyncio.sleep(0.01)
        return version


class Mesh:
    """Fake hosts, and a model service that a test may restart."""

    def __init__(self, tmp_path: Path, stack: AsyncExitStack) -> None:
        self.tmp_path = tmp_path
        self.registry = InMemoryRegistry()
        self.events: list[Message] = []
        """The payloads published by the running service."""
        self.hub_endpoint = "http://127.0.0.1:9"
        self.database: DatabaseUrl = sqlite_with_tables(tmp_path / "model.db", CATALOGUE)
        self.disk: Disk | None = None
        """Of services that are started from then on; None for the real one."""
        self.policies = PolicySettings()
        """Of services that are started from then on."""
        self.scaling = ScalingRules()
        self._stack = stack
        self._service: AsyncExitStack | None = None

    async def host(self, runtime: FakeRuntime | None = None) -> FakeHost:
        """A host that serves the (fake) runtime."""
        host = await FakeHost(runtime or FakeRuntime(), self.registry).start()
        self._stack.push_async_callback(host.crash)
        return host

    def _publish(self, payload: Message, correlation_id: str = "") -> None:
        self.events.append(payload)

    async def service(self) -> ModelService:
        """Restarts the model service on the same database."""
        await self.stop_service()
        stack = self._service = AsyncExitStack()
        self._stack.push_async_callback(stack.aclose)
        self.events.clear()
        store = await Store.open(self.database, partial(publish_change, self._publish))
        stack.push_async_callback(store.close)
        runtimes = GrpcRuntimes(self.registry, timeout_s=2)
        stack.push_async_callback(runtimes.close)
        rejections = Rejections(partial(publish_rejection, self._publish))
        fetches, groups = Fetches(), Groups()
        policies = PolicyPass(
            store=store,
            settings=self.policies,
            scaling=Scaling(self.scaling),
            on_adjustment=partial(publish_adjustment, self._publish),
        )
        reconciler = Reconciler(
            store=store,
            runtimes=runtimes,
            interval_s=0.1,
            placement_retry_s=0.2,
            rejections=rejections,
            policies=policies,
            fetch_retries=FetchRetries(first_s=0.5),
            observers=(fetches.observe, groups.observe),
        )
        blobs = BlobStore(self.tmp_path / "models", self.disk)
        pruning = Pruning(store=store, blobs=blobs)
        pulls = Pulls(
            store=store,
            hub=HuggingFaceHub(self.hub_endpoint, attempts=2, pause_s=0.01),
            blobs=blobs,
            pruning=pruning,
        )
        await pulls.recover()
        imports = Imports(store=store, blobs=blobs)
        await imports.recover()
        loader = Loader(store=store, wake_reconciler=reconciler.wake, fetches=fetches.of)
        servicer = ModelServicer(
            store=store,
            pulls=pulls,
            imports=imports,
            pruning=pruning,
            loader=loader,
            demand=Demand(
                store=store,
                wake_reconciler=reconciler.wake,
                note_use=policies.note_use,
                on_demand_default=self.policies.load_on_demand,
            ),
            rejections=rejections.of,
            fetches=fetches.of,
            groups=groups.of,
        )
        shown_runtimes = GrpcRuntimes(self.registry, timeout_s=2)
        stack.push_async_callback(shown_runtimes.close)
        artifacts = ArtifactServicer(
            inventory=Inventory(store=store, blobs=blobs, pruning=pruning),
            verification=Verification(store=store, blobs=blobs),
            pruning=pruning,
            prune_fetched=shown_runtimes.prune,
        )
        shadows = Shadows(
            store, on_change=lambda run, tally: self._publish(shadow_event(run, tally))
        )
        hub = make_hub(
            store=store,
            pulls=pulls,
            pruning=pruning,
            runtimes=shown_runtimes,
            endpoint=self.hub_endpoint,
            wake_reconciler=reconciler.wake,
            pause_s=0.01,
        )
        server = MeshServer(
            services=[
                (hub_pb2_grpc.add_HubServiceServicer_to_server, hub.servicer),
                (model_pb2_grpc.add_ModelServiceServicer_to_server, servicer),
                (shadow_pb2_grpc.add_ShadowServiceServicer_to_server, ShadowServicer(shadows)),
                (artifact_pb2_grpc.add_ArtifactServiceServicer_to_server, artifacts),
                (
                    profile_pb2_grpc.add_ProfileServiceServicer_to_server,
                    ProfileServicer(Profiles(store.transactions)),
                ),
            ],
            service_names=[
                "mlxmesh.model.v1.HubService",
                "mlxmesh.model.v1.ModelService",
                "mlxmesh.model.v1.ArtifactService",
                "mlxmesh.model.v1.ProfileService",
                "mlxmesh.model.v1.ShadowService",
            ],
        )
        address = await server.start()
        health = UpstreamHealth(store, interval_s=0.1)
        loops = (
            reconciler.run(),
            runtimes.watch(reconciler.wake),
            health.run(),
            hub.runner.run(),
        )
        for loop in loops:
            stack.push_async_callback(_cancel, asyncio.create_task(loop))
        stack.push_async_callback(server.drain, 0, 0)
        channel = open_channel(address)
        stack.push_async_callback(channel.close)
        stub = model_pb2_grpc.ModelServiceStub(channel)
        shadow_stub = shadow_pb2_grpc.ShadowServiceStub(channel)
        files = artifact_pb2_grpc.ArtifactServiceStub(channel)
        profiles = profile_pb2_grpc.ProfileServiceStub(channel)
        return ModelService(
            stub,
            files,
            profiles,
            store,
            self.registry,
            self.tmp_path,
            address,
            shadow_stub,
            hub_pb2_grpc.HubServiceStub(channel),
        )

    async def stop_service(self) -> None:
        """Stops the model service."""
        if self._service is not None:
            await self._service.aclose()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def schema() -> Schema:
    return CATALOGUE


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncGenerator[Mesh]:
    async with AsyncExitStack() as stack:
        yield Mesh(tmp_path, stack)


@pytest.fixture
async def service(mesh: Mesh) -> ModelService:
    return await mesh.service()
