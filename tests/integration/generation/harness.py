"""A generation service over real gRPC, with a fake engine and a fake model service."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlxmesh.engine.v1.engine_pb2 import Submit
from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1.model_pb2 import VERSION_STATE_READY, Model, ModelVersion
from mlxmesh.model.v1.policy_pb2 import ModelPolicy
from mlxmesh_generation.assembly import make_server, open_generations
from mlxmesh_shared.rpc.channels import ChannelPool
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import GenerationSettings
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.model_service import FakeModelService
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.service_process import quiet_process

DIGEST = "ab" * 32


@dataclass
class Mesh:
    """What a test talks to, and what it can look at or break."""

    stub: GenerationServiceStub
    engine: FakeEngine
    models: FakeModelService
    registry: InMemoryRegistry
    server: MeshServer

    async def collect(
        self, request: GenerateRequest, *, timeout: float | None = None
    ) -> list[GenerateResponse]:
        return [response async for response in self.stub.Generate(request, timeout=timeout)]

    def script(self, token_ids: Sequence[int]) -> None:
        """Makes the engine say these tokens, again and again."""

        def choose(submit: Submit, index: int, vocab_size: int) -> int:
            return token_ids[index % len(token_ids)]

        self.engine.options.choose = choose


def pocket(*, desired: int = 1, on_demand: bool | None = None, **changes: object) -> Model:
    """The catalogue's entry of the fake engine's model."""
    fields: dict[str, object] = {
        "version": 1,
        "state": VERSION_STATE_READY,
        "digest": DIGEST,
        "context_tokens": 1024,
        "vocab_size": 500,
        "desired_replicas": desired,
    }
    return Model(
        name="pocket",
        versions=[ModelVersion(**{**fields, **changes})],  # pyright: ignore[reportArgumentType]
        aliases={"stable": 1},
        policy=ModelPolicy(load_on_demand=on_demand),
        default_version=1,
    )


@asynccontextmanager
async def generation_service(
    registry: InMemoryRegistry, data_dir: Path, **changes: Any
) -> AsyncIterator[MeshServer]:
    """As `assembly` builds it, in this process."""
    settings = GenerationSettings(data_dir=data_dir, **changes)
    async with AsyncExitStack() as stack:
        process = quiet_process(settings, "generation", "generation-1")
        server = make_server(process, await open_generations(stack, process, registry))
        await server.start()
        await server.set_serving()
        try:
            yield server
        finally:
            await server.drain(grace_s=0, settle_s=0)


@asynccontextmanager
async def running_mesh(
    data_dir: Path,
    tokenizer_dir: Path,
    options: FakeEngineOptions | None = None,
    model: Model | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncIterator[Mesh]:
    """One engine, one model service, one generation service."""
    registry = InMemoryRegistry()
    models, engine = FakeModelService(), FakeEngine(options)
    models.put(model or pocket(), tokenizer_dir)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(models.running())
        await stack.enter_async_context(engine.running())
        await registry.register(models.instance)
        await registry.register(engine.instance)
        server = await stack.enter_async_context(generation_service(registry, data_dir, **settings))
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        yield Mesh(
            stub=GenerationServiceStub(channels.get(server.address)),
            engine=engine,
            models=models,
            registry=registry,
            server=server,
        )
