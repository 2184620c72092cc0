"""ArtifactService: each method checks, calls and replies."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Any, Protocol

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import artifact_pb2 as pb
from mlxmesh.model.v1 import artifact_pb2_grpc
from mlxmesh_model.artifacts import convert
from mlxmesh_model.artifacts.inventory import Inventory
from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.verification import Verification

_Context = ServicerContext[Any, Any]

_DEFAULT_PAGE_SIZE = 100


class PruneFetched(Protocol):
    """Removes, on all runtimes, the fetched files of versions and adapters that are not needed."""

    async def __call__(self, needed_digests: Collection[str], *, dry_run: bool) -> tuple[int, int]:
        """The number of files, and their bytes."""
        ...


class ArtifactServicer(artifact_pb2_grpc.ArtifactServiceServicer):
    """The store of model files over gRPC; the contract documents each method."""

    def __init__(
        self,
        *,
        inventory: Inventory,
        verification: Verification,
        pruning: Pruning,
        prune_fetched: PruneFetched | None = None,
    ) -> None:
        """prune_fetched: does the same on the hosts of runtimes."""
        self._inventory = inventory
        self._verification = verification
        self._pruning = pruning
        self._prune_fetched = prune_fetched

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: _Context
    ) -> pb.ListArtifactsResponse:
        after = convert.from_token(request.page_token)
        limit = request.page_size or _DEFAULT_PAGE_SIZE
        return convert.to_page(await self._inventory.page(after=after, limit=limit))

    async def VerifyArtifacts(
        self, request: pb.VerifyArtifactsRequest, context: _Context
    ) -> AsyncGenerator[pb.VerifyArtifactsResponse]:
        checks = self._verification.verify(convert.from_verify(request))
        async with aclosing(checks):
            async for check in checks:
                found = check.version and await self._inventory.describe(check.version)
                yield convert.to_check(check, found)

    async def PruneArtifacts(
        self, request: pb.PruneArtifactsRequest, context: _Context
    ) -> pb.PruneArtifactsResponse:
        after_s = convert.from_prune(request)
        remove = self._pruning.find if request.dry_run else self._pruning.prune
        removal = await remove(unfinished_after_s=after_s)
        fetched = (0, 0)
        if self._prune_fetched is not None:
            needed = await self._inventory.digests()
            fetched = await self._prune_fetched(needed, dry_run=request.dry_run)
        return convert.to_removal(removal, *fetched)
