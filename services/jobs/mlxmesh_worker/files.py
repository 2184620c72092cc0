"""Files of jobs, at a jobs service."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from hashlib import sha256

from mlxmesh.job.v1.file_pb2 import (
    FILE_PURPOSE_JOB_OUTPUT,
    AppendFileRequest,
    CreateFileRequest,
    File,
    FinishFileRequest,
    ReadFileRequest,
)
from mlxmesh.job.v1.file_pb2_grpc import FileServiceStub
from mlxmesh_worker.jobs_services import JobsServices

MAX_PIECE_BYTES = 2**20
_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 300.0


class Files:
    """Reads files as the owner of a job, and writes what the job made as a worker, which the jobs
    service gives to the job's owner. Raises: MeshError.
    """

    def __init__(
        self, services: JobsServices, job_id: str, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        """metadata: that of calls of the owner."""
        self._services = services
        self._job_id = job_id
        self._metadata = metadata

    async def store(self, name: str, media_type: str, content: AsyncIterable[bytes]) -> File:
        """Stores a file that the job made."""
        stub = self._stub()
        created = await stub.CreateFile(
            CreateFileRequest(
                name=name,
                purpose=FILE_PURPOSE_JOB_OUTPUT,
                media_type=media_type,
                job_id=self._job_id,
            ),
            timeout=_TIMEOUT_S,
        )
        file_id, size_bytes, digest = created.file.file_id, 0, sha256()
        async for data in _pieces(content):
            digest.update(data)
            append = AppendFileRequest(file_id=file_id, offset=size_bytes, data=data)
            await stub.AppendFile(append, timeout=_TIMEOUT_S)
            size_bytes += len(data)
        finish = FinishFileRequest(
            file_id=file_id, size_bytes=size_bytes, sha256=digest.hexdigest()
        )
        return (await stub.FinishFile(finish, timeout=_TIMEOUT_S)).file

    async def read(self, file_id: str) -> AsyncIterator[bytes]:
        """The bytes of a file of the owner."""
        request = ReadFileRequest(file_id=file_id)
        responses = self._stub().ReadFile(request, metadata=self._metadata, timeout=_READ_TIMEOUT_S)
        async for response in responses:
            yield response.data

    def _stub(self) -> FileServiceStub:
        return FileServiceStub(self._services.any_channel())


async def _pieces(content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, in pieces that one message holds."""
    waiting = bytearray()
    async for data in content:
        waiting += data
        while len(waiting) >= MAX_PIECE_BYTES:
            yield bytes(waiting[:MAX_PIECE_BYTES])
            del waiting[:MAX_PIECE_BYTES]
    if waiting:
        yield bytes(waiting)
