"""An ArtifactService that serves artifacts from memory, two a page."""

from collections.abc import AsyncIterator
from typing import Any

from mlxmesh.model.v1 import artifact_pb2 as pb
from mlxmesh.model.v1.artifact_pb2_grpc import ArtifactServiceServicer


class FakeArtifacts(ArtifactServiceServicer):
    """Verifies at once; prunes what it was told is prunable."""

    def __init__(self) -> None:
        self.artifacts: list[pb.Artifact] = []
        self.prunable_bytes = 0
        self.calls: list[Any] = []

    async def ListArtifacts(self, request: Any, context: Any) -> pb.ListArtifactsResponse:
        self.calls.append(request)
        start = int(request.page_token or 0)
        more = start + 2 < len(self.artifacts)
        return pb.ListArtifactsResponse(
            artifacts=self.artifacts[start : start + 2],
            next_page_token=str(start + 2) if more else "",
            stored_bytes=3_000_000,
            prunable_bytes=self.prunable_bytes,
            free_bytes=5_000_000,
        )

    async def VerifyArtifacts(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.VerifyArtifactsResponse]:
        self.calls.append(request)
        yield pb.VerifyArtifactsResponse(done_bytes=1, total_bytes=2)
        for artifact in self.artifacts:
            if request.model in ("", artifact.model):
                yield pb.VerifyArtifactsResponse(done_bytes=2, total_bytes=2, artifact=artifact)

    async def PruneArtifacts(self, request: Any, context: Any) -> pb.PruneArtifactsResponse:
        self.calls.append(request)
        return pb.PruneArtifactsResponse(files=1, freed_bytes=self.prunable_bytes)
