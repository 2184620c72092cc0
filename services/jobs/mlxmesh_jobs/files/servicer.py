"""FileService: each method checks, calls and replies."""

from collections.abc import AsyncGenerator
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.job.v1 import file_pb2 as pb
from mlxmesh.job.v1.file_pb2_grpc import FileServiceServicer
from mlxmesh_jobs.domain.ports import StoredFile
from mlxmesh_jobs.files.convert import from_new_file, to_file, viewer_of
from mlxmesh_jobs.files.files import Files, Viewer
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.page_tokens import from_page_token, to_page_token

_Context = ServicerContext[Any, Any]
_DEFAULT_PAGE_SIZE = 100


class FileServicer(FileServiceServicer):
    """Requests have passed the contract's rules."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def CreateFile(
        self, request: pb.CreateFileRequest, context: _Context
    ) -> pb.CreateFileResponse:
        file = await self._files.create(viewer_of(context), from_new_file(request))
        return pb.CreateFileResponse(file=to_file(file))

    async def AppendFile(
        self, request: pb.AppendFileRequest, context: _Context
    ) -> pb.AppendFileResponse:
        size_bytes = await self._files.append(
            viewer_of(context), request.file_id, request.offset, request.data
        )
        return pb.AppendFileResponse(size_bytes=size_bytes)

    async def FinishFile(
        self, request: pb.FinishFileRequest, context: _Context
    ) -> pb.FinishFileResponse:
        file = await self._files.finish(
            viewer_of(context), request.file_id, request.size_bytes, request.sha256
        )
        return pb.FinishFileResponse(file=to_file(file))

    async def GetFile(self, request: pb.GetFileRequest, context: _Context) -> pb.GetFileResponse:
        file = await self._files.get(viewer_of(context), request.file_id)
        return pb.GetFileResponse(file=to_file(file))

    async def ListFiles(
        self, request: pb.ListFilesRequest, context: _Context
    ) -> pb.ListFilesResponse:
        viewer = viewer_of(context)
        size = request.page_size or _DEFAULT_PAGE_SIZE
        found = await self._files.list(
            viewer,
            purpose=request.purpose,
            job_id=request.job_id,
            oldest_first=request.oldest_first,
            after=await self._position(viewer, request),
            limit=size + 1,
        )
        page = found[:size]
        token = to_page_token(_position_of(page[-1])) if len(found) > size else ""
        return pb.ListFilesResponse(files=[to_file(one) for one in page], next_page_token=token)

    async def ReadFile(
        self, request: pb.ReadFileRequest, context: _Context
    ) -> AsyncGenerator[pb.ReadFileResponse]:
        viewer = viewer_of(context)
        async for piece in self._files.read(viewer, request.file_id, request.offset):
            yield pb.ReadFileResponse(data=piece)

    async def DeleteFile(
        self, request: pb.DeleteFileRequest, context: _Context
    ) -> pb.DeleteFileResponse:
        await self._files.delete(viewer_of(context), request.file_id)
        return pb.DeleteFileResponse()

    async def _position(
        self, viewer: Viewer, request: pb.ListFilesRequest
    ) -> tuple[int, str] | None:
        """After which file the page begins."""
        if request.after_file_id:
            if request.page_token:
                raise InvalidArgument(
                    "after_file_id must not be set together with page_token", field="after_file_id"
                )
            file = await self._files.get(viewer, request.after_file_id)
            return _position_of(file)
        created_ms, file_id = from_page_token(request.page_token, (-1, ""))
        return (int(created_ms), str(file_id)) if created_ms != -1 else None


def _position_of(file: StoredFile) -> tuple[int, str]:
    return file.created_ms, file.file_id
