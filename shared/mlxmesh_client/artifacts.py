"""The client's methods for model files."""

from collections.abc import AsyncGenerator, Sequence
from functools import cached_property

from grpc import aio

from mlxmesh.model.v1 import artifact_pb2 as artifact_pb
from mlxmesh.model.v1.artifact_pb2_grpc import ArtifactServiceStub
from mlxmesh_client.calls import Calls


class ArtifactMethods:
    """One method per RPC of ArtifactService."""

    _calls: Calls
    _channels: Sequence[aio.Channel]

    @cached_property
    def _artifacts(self) -> ArtifactServiceStub:
        return ArtifactServiceStub(self._channels[0])

    async def list_artifacts(
        self, *, timeout_s: float | None = None
    ) -> artifact_pb.ListArtifactsResponse:
        """Returns the files of every version, by model and version, and the size of the store."""
        request = artifact_pb.ListArtifactsRequest()
        whole = artifact_pb.ListArtifactsResponse()
        while True:
            call = self._artifacts.ListArtifacts
            page = await self._calls.unary(call, request, timeout_s, safe=True)
            whole.MergeFrom(page)
            if not page.next_page_token:
                whole.next_page_token = ""
                return whole
            request.page_token = page.next_page_token

    def verify_artifacts(
        self, model: str = "", *, timeout_s: float | None = None
    ) -> AsyncGenerator[artifact_pb.VerifyArtifactsResponse]:
        """Checks the files of a model, of one version or, by default, of every model.

        Yields progress and each version that has been checked. A version with damaged files cannot
        be loaded until it is pulled or imported again.
        """
        request = artifact_pb.VerifyArtifactsRequest(model=model)
        return self._calls.stream(self._artifacts.VerifyArtifacts, request, timeout_s, safe=True)

    async def prune_artifacts(
        self,
        *,
        dry_run: bool = False,
        unfinished_after_s: int | None = None,
        timeout_s: float | None = None,
    ) -> artifact_pb.PruneArtifactsResponse:
        """Removes files of no version, and unfinished downloads without progress for so long."""
        request = artifact_pb.PruneArtifactsRequest(
            dry_run=dry_run, unfinished_after_s=unfinished_after_s
        )
        return await self._calls.unary(
            self._artifacts.PruneArtifacts, request, timeout_s, safe=dry_run
        )
