"""Files of jobs in memory, as workers read and write them."""

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

from mlxmesh.job.v1 import file_pb2 as pb
from mlxmesh.job.v1.file_pb2_grpc import FileServiceServicer
from mlxmesh_shared.errors import FileNotFound, IllegalState, InvalidArgument, OutputTooLarge


class FakeFiles(FileServiceServicer):
    """Satisfies the part of FileService that workers call."""

    def __init__(self, max_output_bytes: int = 10 * 2**20) -> None:
        self.files: dict[str, pb.File] = {}
        self.contents: dict[str, bytes] = {}
        self.metadata: list[dict[str, str | bytes]] = []
        self._max_output_bytes = max_output_bytes

    def add(self, file_id: str, content: bytes) -> None:
        """A complete file of a caller."""
        self.files[file_id] = pb.File(file_id=file_id, complete=True, size_bytes=len(content))
        self.contents[file_id] = content

    async def CreateFile(
        self, request: pb.CreateFileRequest, context: Any
    ) -> pb.CreateFileResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        if "mlxmesh-role" in self.metadata[-1]:
            raise InvalidArgument("job_id is set by workers only", field="job_id")
        file_id = f"file-{len(self.files) + 1}"
        file = self.files[file_id] = pb.File(
            file_id=file_id,
            name=request.name,
            purpose=request.purpose,
            media_type=request.media_type,
            job_id=request.job_id,
        )
        self.contents[file_id] = b""
        return pb.CreateFileResponse(file=file)

    async def AppendFile(
        self, request: pb.AppendFileRequest, context: Any
    ) -> pb.AppendFileResponse:
        content = self.contents[request.file_id]
        if request.offset != len(content):
            raise IllegalState(f"the file has {len(content)} bytes")
        if len(content) + len(request.data) > self._max_output_bytes:
            raise OutputTooLarge("the files of this job are too large")
        self.contents[request.file_id] = content + request.data
        return pb.AppendFileResponse(size_bytes=len(content) + len(request.data))

    async def FinishFile(
        self, request: pb.FinishFileRequest, context: Any
    ) -> pb.FinishFileResponse:
        file, content = self.files[request.file_id], self.contents[request.file_id]
        digest = sha256(content).hexdigest()
        if (request.size_bytes, request.sha256) != (len(content), digest):
            raise InvalidArgument("the file has another size or hash")
        file.size_bytes, file.sha256, file.complete = len(content), digest, True
        return pb.FinishFileResponse(file=file)

    async def ReadFile(
        self, request: pb.ReadFileRequest, context: Any
    ) -> AsyncIterator[pb.ReadFileResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        if request.file_id not in self.contents:
            raise FileNotFound(f"there is no file {request.file_id}")
        yield pb.ReadFileResponse(data=self.contents[request.file_id][request.offset :])

    def GetFile(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListFiles(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def DeleteFile(self, request: Any, context: Any) -> Any:
        raise NotImplementedError
