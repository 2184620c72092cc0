"""The model service, found through the registry."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from mlxmesh.model.v1.model_pb2 import GetTokenizerRequest, WatchModelsRequest
from mlxmesh.model.v1.model_pb2_grpc import ModelServiceStub
from mlxmesh_generation import convert
from mlxmesh_generation.catalogue import Catalogue, CatalogueChange, ModelVersion
from mlxmesh_shared.errors import MeshError, ModelNotFound, ServiceUnavailable
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.registry.port import Registry
from mlxmesh_shared.rpc.channels import ChannelPool

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


FIRST_SYNC_WAIT_S = 3.0
RETRY_S = 0.25

_log = logging.getLogger(__name__)


class CatalogueSource(Protocol):
    """Where the catalogue's changes come from."""

    def watch(self, after_sequence: int) -> AsyncGenerator[CatalogueChange]:
        """Every model, or only what changed after a sequence number; then each change."""
        ...


class CatalogueMirror:
    """Follows the model service; while that is away, the last known catalogue stays."""

    def __init__(
        self,
        source: CatalogueSource,
        *,
        retry_s: float = RETRY_S,
        first_sync_wait_s: float = FIRST_SYNC_WAIT_S,
    ) -> None:
        self._source = source
        self._retry_s = retry_s
        self._first_sync_wait_s = first_sync_wait_s
        self._catalogue = Catalogue()
        self._synced = asyncio.Event()
        self._last_sequence = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._follow()
            except MeshError as error:
                _log.debug("the catalogue's watch ended: %s", error.reason)
            await asyncio.sleep(self._retry_s)

    async def resolve(self, reference: ModelReference) -> ModelVersion:
        """Raises: ModelNotFound; ServiceUnavailable when no catalogue was ever received."""
        if not self._synced.is_set():
            await self._first_sync()
        return self._catalogue.resolve(reference)

    def wants(self, version: ModelVersion) -> bool:
        """Whether the catalogue, as last seen, wants replicas of a version."""
        try:
            known = self._catalogue.resolve(ModelReference(version.name, version.version))
        except ModelNotFound:
            return False
        return known.desired_replicas > 0

    async def _first_sync(self) -> None:
        try:
            async with asyncio.timeout(self._first_sync_wait_s):
                await self._synced.wait()
        except TimeoutError as error:
            raise ServiceUnavailable(
                "the model service has not answered yet; try again shortly", retry_delay_s=1.0
            ) from error

    async def _follow(self) -> None:
        after = self._last_sequence
        listed: set[str] | None = set()
        async with aclosing(self._source.watch(after)) as changes:
            async for change in changes:
                self._catalogue.apply(change)
                if listed is not None and change.model is not None:
                    listed.add(change.model.name)
                if change.synced and listed is not None:
                    # A catalogue that counts from the start again has listed all that it has.
                    if after == 0 or change.sequence < after:
                        self._catalogue.keep_only(listed)
                    listed = None
                    self._synced.set()
                # Until the listing is complete, a broken watch has to begin again.
                if listed is None:
                    self._last_sequence = change.sequence
