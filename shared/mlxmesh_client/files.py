"""The client's methods for files of jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path

from grpc import aio

from mlxmesh.job.v1 import file_pb2 as pb
from mlxmesh.job.v1.file_pb2_grpc import FileServiceStub
from mlxmesh_client.calls import Calls

PIECE_BYTES = 512 * 1024


class FilesClient:
    """Files that jobs read and make; `MeshClient.files` has it.

    stored = await mesh.files.put(Path("requests.jsonl"))
    async for piece in mesh.files.read(stored.file_id): ...
    """

    def __init__(self, channel: aio.Channel, calls: Calls) -> None:
        self._stub = FileServiceStub(channel)
        self._calls = calls

    async def put(
        self,
        source: Path | bytes,
        *,
        name: str = "",
        purpose: pb.FilePurpose.ValueType = pb.FILE_PURPOSE_BATCH,
        media_type: str = "",
        expires_after_s: int = 0,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
        timeout_s: float | None = None,
    ) -> pb.File:
        """Stores a file, piece by piece; a piece that is lost on the way is sent again.

        name: by default that of the path.
        on_progress: gets the stored and the total bytes. Raises: DiskFull, FilesFull, OSError.
        """
        name = name or (source.name if isinstance(source, Path) else "data")
        total = source.stat().st_size if isinstance(source, Path) else len(source)
        request = pb.CreateFileRequest(
            name=name, purpose=purpose, media_type=media_type, expires_after_s=expires_after_s
        )
        created = await self._calls.unary(self._stub.CreateFile, request, timeout_s, safe=False)
        file_id, size, digest = created.file.file_id, 0, sha256()
        for piece in _pieces(source):
            digest.update(piece)
            append = pb.AppendFileRequest(file_id=file_id, offset=size, data=piece)
            await self._calls.unary(self._stub.AppendFile, append, timeout_s, safe=True)
            size += len(piece)
            on_progress(size, total)
        finish = pb.FinishFileRequest(file_id=file_id, size_bytes=size, sha256=digest.hexdigest())
        return (await self._calls.unary(self._stub.FinishFile, finish, timeout_s, safe=True)).file

    async def get(self, file_id: str, *, timeout_s: float | None = None) -> pb.File:
        """Returns what is known of a file. Raises: FileNotFound."""
        request = pb.GetFileRequest(file_id=file_id)
        return (await self._calls.unary(self._stub.GetFile, request, timeout_s, safe=True)).file

    async def list(
        self,
        *,
        purpose: pb.FilePurpose.ValueType = pb.FILE_PURPOSE_UNSPECIFIED,
        job_id: str = "",
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> list[pb.File]:
        """Returns files, the newest first; at most `limit`."""
        request = pb.ListFilesRequest(purpose=purpose, job_id=job_id)
        found: list[pb.File] = []
        while True:
            page = await self._calls.unary(self._stub.ListFiles, request, timeout_s, safe=True)
            found.extend(page.files)
            if not page.next_page_token or (limit is not None and len(found) >= limit):
                return found[:limit]
            request.page_token = page.next_page_token

    async def read(self, file_id: str, *, offset: int = 0) -> AsyncGenerator[bytes]:
        """Yields the bytes of a file from an offset. Raises: FileNotFound."""
        request = pb.ReadFileRequest(file_id=file_id, offset=offset)
        stream = self._calls.stream(self._stub.ReadFile, request, None, safe=True)
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                yield piece.data

    async def delete(self, file_id: str, *, timeout_s: float | None = None) -> None:
        """Removes a file. Raises: FileNotFound; IllegalState for one that a job reads."""
        request = pb.DeleteFileRequest(file_id=file_id)
        await self._calls.unary(self._stub.DeleteFile, request, timeout_s, safe=False)


def _pieces(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), PIECE_BYTES):
            yield source[start : start + PIECE_BYTES]
        return
    with source.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
