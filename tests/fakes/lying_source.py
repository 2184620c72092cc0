"""A process that offers files to other hosts, and breaks the contract of TransferService."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from mlxmesh.artifact.v1 import transfer_pb2 as pb
from mlxmesh.artifact.v1 import transfer_pb2_grpc

Chunks = Callable[[pb.ReadFileRequest], Iterable[pb.ReadFileResponse]]


class LyingSource(transfer_pb2_grpc.TransferServiceServicer):
    """Says that it has all of every file, and sends what a test chose."""

    def __init__(
        self,
        chunks: Chunks = lambda request: (),
        *,
        manifest: pb.GetManifestResponse | None = None,
        hangs: bool = False,
    ) -> None:
        """hangs: a read does not end after its chunks."""
        self.reads = 0
        self._chunks = chunks
        self._manifest = manifest or pb.GetManifestResponse()
        self._hangs = hangs

    async def GetManifest(
        self, request: pb.GetManifestRequest, context: Any
    ) -> pb.GetManifestResponse:
        return self._manifest

    async def GetAvailability(
        self, request: pb.GetAvailabilityRequest, context: Any
    ) -> pb.GetAvailabilityResponse:
        return pb.GetAvailabilityResponse(available_bytes=2**50, complete=True)

    async def ReadFile(
        self, request: pb.ReadFileRequest, context: Any
    ) -> AsyncGenerator[pb.ReadFileResponse]:
        self.reads += 1
        for chunk in self._chunks(request):
            yield chunk
        if self._hangs:
            await asyncio.Event().wait()
