"""A generation service with fake encoder engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxmesh.generation.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mlxmesh.model.v1.model_pb2 import (
    MODEL_KIND_EMBEDDING,
    MODEL_KIND_RERANK,
    VERSION_STATE_READY,
    Model,
    ModelVersion,
)
from mlxmesh.model.v1.policy_pb2 import ModelPolicy, Price
from mlxmesh_shared.rpc.channels import ChannelPool
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.model_service import FakeModelService
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.waiting import until
from tests.integration.generation.harness import generation_service

CONTEXT_TOKENS = 64


@dataclass
class EncodingMesh:
    """What a test talks to, and what it can look at or break."""

    stub: EmbeddingServiceStub
    engines: list[FakeEngine]
    models: FakeModelService
    registry: InMemoryRegistry
    address: str

    async def connected(self, engine: FakeEngine) -> None:
        """Registers an engine and waits until it can be chosen."""
        await self.registry.register(engine.instance)
        await until(lambda: engine.streams > 0)


def encoder_model(
    kind: str = "embedding", *, on_demand: bool | None = None, **fields: Any
) -> Model:
    """The catalogue's entry of the fake engines' model."""
    kinds = {"embedding": MODEL_KIND_EMBEDDING, "rerank": MODEL_KIND_RERANK}
    version = ModelVersion(
        version=1,
        state=VERSION_STATE_READY,
        digest="cd" * 32,
        context_tokens=CONTEXT_TOKENS,
        vocab_size=500,
        desired_replicas=1,
        kind=kinds[kind],
        dimensions=4 if kind == "embedding" else 0,
    )
    version.MergeFrom(ModelVersion(**fields))
    return Model(
        name="small",
        versions=[version],
        aliases={"stable": 1},
        policy=ModelPolicy(
            load_on_demand=on_demand, price=Price(per_million_prompt_tokens=1_000_000)
        ),
        default_version=1,
    )


@asynccontextmanager
async def encoding_mesh(
    data_dir: Path,
    tokenizer_dir: Path,
    *,
    kind: str = "embedding",
    engines: int = 1,
    **settings: Any,
) -> AsyncIterator[EncodingMesh]:
    """A generation service, a model service, and replicas of one model."""
    registry, models = InMemoryRegistry(), FakeModelService()
    models.put(encoder_model(kind), tokenizer_dir)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(models.running())
        await registry.register(models.instance)
        server = await stack.enter_async_context(generation_service(registry, data_dir, **settings))
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        mesh = EncodingMesh(
            EmbeddingServiceStub(channels.get(server.address)), [], models, registry, server.address
        )
        for number in range(engines):
            engine = await stack.enter_async_context(encoder_engine(kind, f"engine-{number + 1}"))
            mesh.engines.append(engine)
            await mesh.connected(engine)
        yield mesh


@asynccontextmanager
async def encoder_engine(kind: str, engine_id: str) -> AsyncIterator[FakeEngine]:
    """A replica of the model, not registered."""
    options = FakeEngineOptions(
        engine_id=engine_id, model="small", kind=kind, context_tokens=CONTEXT_TOKENS
    )
    async with FakeEngine(options).running() as engine:
        yield engine
