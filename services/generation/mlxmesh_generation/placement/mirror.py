"""A mirror of the model service's catalogue."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Protocol

from mlxmesh.model.v1.model_pb2_grpc import ModelServiceStub
from mlxmesh_generation.domain.catalogue import (
    Catalogue,
    CatalogueChange,
    Loading,
    ModelVersion,
    Route,
)
from mlxmesh_generation.domain.ensemble import Recipe
from mlxmesh_generation.domain.routing import Asker
from mlxmesh_generation.placement import convert
from mlxmesh_generation.placement.demand import VersionUse
from mlxmesh_shared.errors import (
    MeshError,
    ModelNotFound,
    RegistryUnavailable,
    ServiceUnavailable,
)
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.rpc.channels import ChannelPool

FETCH_TIMEOUT_S = 120
LOAD_CALL_TIMEOUT_S = 5


class ModelService:
    """Reads catalogue changes and tokenizer files from it."""

    def __init__(
        self, *, registry: Registry, channels: ChannelPool, watch_channels: ChannelPool
    ) -> None:
        """`watch_channels` are for the watch alone, which is silent for long times."""
        self._registry = registry
        self._channels = channels
        self._watch_channels = watch_channels

    async def watch(self, after_sequence: int) -> AsyncGenerator[CatalogueChange]:
        """Waits until the service is registered.

        Raises: ServiceUnavailable when it cannot be reached or its stream breaks.
        """
        stub = _stub(self._watch_channels, await self._registered())
        async for message in stub.WatchModels(convert.watch_models(after_sequence)):
            yield convert.catalogue_change(message)

    async def tokenizer_files(
        self, name: str, version: int, profile: str
    ) -> AsyncGenerator[tuple[str, bytes]]:
        """Raises: ServiceUnavailable as above, ModelNotFound when the version was removed."""
        instances = await self._registry.resolve("model")
        if not instances:
            raise ServiceUnavailable("the model service is not running; start it and try again")
        stub = _stub(self._channels, instances[0])
        request = convert.get_tokenizer(name, version, profile)
        async for piece in stub.GetTokenizer(request, timeout=FETCH_TIMEOUT_S):
            yield piece.file_name, piece.data

    async def request_load(self, name: str, version: int, uses: Sequence[VersionUse]) -> None:
        """Asks for a version on behalf of requests that wait for it.

        Raises: ServiceUnavailable as above, DeadlineExceeded; else why it will not be loaded.
        """
        instances = await self._registry.resolve("model")
        if not instances:
            raise ServiceUnavailable("the model service is not running; start it and try again")
        stub = _stub(self._channels, instances[0])
        request = convert.request_load(name, version, uses)
        await stub.RequestLoad(request, timeout=LOAD_CALL_TIMEOUT_S)

    async def _registered(self) -> Instance:
        # While the registry is away, this is the last known instance, and a watch yields nothing.
        with suppress(RegistryUnavailable):
            known = await self._registry.resolve("model")
            if known:
                return known[0]
        async with aclosing(self._registry.watch("model")) as sets:
            async for instances in sets:
                if instances:
                    return instances[0]
        raise ServiceUnavailable("the registry's watch of the model service ended")


def _stub(channels: ChannelPool, instance: Instance) -> ModelServiceStub:
    return ModelServiceStub(channels.get(instance.address))


FIRST_SYNC_WAIT_S = 3.0
RETRY_S = 0.25

_log = logging.getLogger(__name__)


class CatalogueSource(Protocol):
    """A source of catalogue changes."""

    def watch(self, after_sequence: int) -> AsyncGenerator[CatalogueChange]:
        """Yields every model, or the changes after a sequence number; then each new change."""
        ...


class CatalogueMirror:
    """Follows the model service; without it, the last known catalogue stays valid."""

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
        await self._first_sync()
        return self._catalogue.resolve(reference)

    async def route(self, reference: ModelReference, asker: Asker, adapter: str = "") -> Route:
        """The version for a request, and its adapter. Raises: as Catalogue.route()."""
        await self._first_sync()
        return self._catalogue.route(reference, asker, adapter)

    async def recipe(self, reference: ModelReference) -> Recipe | None:
        """The recipe of an ensemble; None for a model. Raises: as resolve()."""
        await self._first_sync()
        return self._catalogue.recipe(reference)

    def wants(self, version: ModelVersion) -> bool:
        """Whether the catalogue, as last seen, wants replicas of a version."""
        try:
            known = self._catalogue.resolve(ModelReference(version.name, version.version))
        except ModelNotFound:
            return False
        return known.desired_replicas > 0

    def has_shadow(self, name: str, shadow_id: str) -> bool:
        """Whether a model, as last seen, has a shadow."""
        try:
            model = self._catalogue.model(name)
        except ModelNotFound:
            return False
        return any(shadow.shadow_id == shadow_id for shadow in model.shadows)

    def loading(self, version: ModelVersion) -> Loading:
        """Whether, and for how long, requests may wait until a version is loaded."""
        try:
            model = self._catalogue.model(version.name)
        except ModelNotFound:
            return Loading(on_demand=False)
        return model.loading

    async def _first_sync(self) -> None:
        if self._synced.is_set():
            return
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
                    # A catalogue that starts to count anew lists every model.
                    if after == 0 or change.sequence < after:
                        self._catalogue.keep_only(listed)
                    listed = None
                    self._synced.set()
                # A watch that breaks before the listing is complete starts over.
                if listed is None:
                    self._last_sequence = change.sequence
