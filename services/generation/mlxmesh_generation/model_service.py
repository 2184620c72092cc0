"""The model service, found through the registry."""

from collections.abc import AsyncGenerator

from mlxmesh.model.v1.model_pb2 import GetTokenizerRequest, WatchModelsRequest
from mlxmesh.model.v1.model_pb2_grpc import ModelServiceStub
from mlxmesh_generation import convert
from mlxmesh_generation.catalogue import CatalogueChange
from mlxmesh_shared.channels import ChannelPool
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.registry.port import Registry

FETCH_TIMEOUT_S = 120


class ModelService:
    """What generation asks of it: the catalogue's changes and the tokenizers' files."""

    def __init__(self, *, registry: Registry, channels: ChannelPool) -> None:
        self._registry = registry
        self._channels = channels

    async def watch(self, after_sequence: int) -> AsyncGenerator[CatalogueChange]:
        """Raises: ServiceUnavailable when the service is away or goes away."""
        stub = await self._stub()
        async for message in stub.WatchModels(WatchModelsRequest(after_sequence=after_sequence)):
            yield convert.catalogue_change(message)

    async def tokenizer_files(self, name: str, version: int) -> AsyncGenerator[tuple[str, bytes]]:
        """Raises: ServiceUnavailable as above, ModelNotFound when the version was removed."""
        stub = await self._stub()
        request = GetTokenizerRequest(name=name, version=version)
        async for piece in stub.GetTokenizer(request, timeout=FETCH_TIMEOUT_S):
            yield piece.file_name, piece.data

    async def _stub(self) -> ModelServiceStub:
        instances = await self._registry.resolve("model")
        if not instances:
            raise ServiceUnavailable("the model service is not running; start it and try again")
        return ModelServiceStub(self._channels.get(instances[0].address))
