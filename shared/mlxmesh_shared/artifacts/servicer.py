"""TransferService: each method checks, calls and replies."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.artifact.v1 import transfer_pb2 as pb
from mlxmesh.artifact.v1 import transfer_pb2_grpc
from mlxmesh_shared.artifacts.convert import to_availability, to_chunk, to_manifest
from mlxmesh_shared.artifacts.local_file import ServedFiles
from mlxmesh_shared.artifacts.uploads import Uploads
from mlxmesh_shared.errors import ArtifactNotFound

SERVICE = "mlxmesh.artifact.v1.TransferService"

_ATTEMPTS = 2

_Context = ServicerContext[Any, Any]


class TransferServicer(transfer_pb2_grpc.TransferServiceServicer):
    """Sends files to other hosts; requests have passed the contract's rules."""

    def __init__(self, files: ServedFiles, uploads: Uploads) -> None:
        self._files = files
        self._uploads = uploads

    async def GetManifest(
        self, request: pb.GetManifestRequest, context: _Context
    ) -> pb.GetManifestResponse:
        return to_manifest(await self._files.manifest(request.digest))

    async def GetAvailability(
        self, request: pb.GetAvailabilityRequest, context: _Context
    ) -> pb.GetAvailabilityResponse:
        return to_availability(await self._files.find(request.sha256))

    async def ReadFile(
        self, request: pb.ReadFileRequest, context: _Context
    ) -> AsyncGenerator[pb.ReadFileResponse]:
        with self._uploads.reading(request.sha256) as upload:
            async with aclosing(await self._chunks(request)) as chunks:
                async for offset, data in chunks:
                    yield to_chunk(offset, data)
                    upload.sent(len(data))

    async def _chunks(self, request: pb.ReadFileRequest) -> AsyncGenerator[tuple[int, bytes]]:
        # One that becomes whole between the two steps has another path the second time.
        for _ in range(_ATTEMPTS):
            file = await self._files.find(request.sha256, request.digest)
            if file is None:
                break
            with suppress(FileNotFoundError):
                return file.chunks(file.open(), request.offset)
        raise ArtifactNotFound("this process does not have the file; ask another one")
