"""Uploads a form's file to FileService while it arrives: at most a piece of it is in memory."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterable
from dataclasses import dataclass, replace
from typing import Any

from mlxmesh.job.v1 import file_pb2 as pb
from mlxmesh_gateway.http.door import HttpCalls
from mlxmesh_gateway.http.multipart import FileBegin, FileData, FormField, FormPart
from mlxmesh_gateway.openai.files import convert
from mlxmesh_shared.errors import InvalidArgument, MeshError

PIECE_BYTES = 1_048_576
_SERVICE = "/mlxmesh.job.v1.FileService"
CREATE = f"{_SERVICE}/CreateFile"
APPEND = f"{_SERVICE}/AppendFile"
FINISH = f"{_SERVICE}/FinishFile"
GET = f"{_SERVICE}/GetFile"
LIST = f"{_SERVICE}/ListFiles"
READ = f"{_SERVICE}/ReadFile"
DELETE = f"{_SERVICE}/DeleteFile"


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What CreateFile is told."""

    name: str
    media_type: str
    purpose: pb.FilePurpose.ValueType
    expires_after_s: int = 0


async def upload(calls: HttpCalls, form: AsyncIterable[FormPart]) -> tuple[pb.File, dict[str, str]]:
    """Stores a form's file; returns it, and the form's fields.

    A client may send the purpose after the file. The file is then begun for a batch, and copied if
    it turns out to be for something else. Raises: MeshError; nothing is stored then.
    """
    fields: dict[str, str] = {}
    current: _Upload | None = None
    try:
        async for part in form:
            match part:
                case FormField():
                    fields[part.name] = part.value
                case FileBegin():
                    if part.name != "file" or current is not None:
                        raise InvalidArgument(
                            "the form must have one file, in the field file", field="file"
                        )
                    current = _Upload(calls, _wanted(part, fields))
                    await current.begin()
                case FileData():
                    assert current is not None  # FileBegin came before
                    await current.write(part.data)
        if current is None:
            raise InvalidArgument("file is required", field="file")
        return await current.finish(_told(current.wanted, fields)), fields
    except BaseException:
        if current is not None:
            await current.drop()
        raise


def _wanted(begin: FileBegin, fields: dict[str, str]) -> _Wanted:
    """What is known when the file begins. Raises: InvalidArgument, FeatureNotSupported."""
    begun = _Wanted(
        name=begin.file_name, media_type=begin.media_type, purpose=pb.FILE_PURPOSE_BATCH
    )
    return _told(begun, fields) if "purpose" in fields else begun


def _told(wanted: _Wanted, fields: dict[str, str]) -> _Wanted:
    """With what the fields say. Raises: InvalidArgument, FeatureNotSupported."""
    if "purpose" not in fields:
        raise InvalidArgument("purpose is required", field="purpose")
    return replace(
        wanted,
        purpose=convert.uploaded_purpose(fields["purpose"]),
        expires_after_s=convert.expires_after_s(fields),
    )


class _Upload:
    """A file that is being stored."""

    def __init__(self, calls: HttpCalls, wanted: _Wanted) -> None:
        self.wanted = wanted
        self._calls = calls
        self._file_id = ""
        self._buffer = bytearray()
        self._size_bytes = 0
        self._digest = hashlib.sha256()

    async def begin(self) -> None:
        request = pb.CreateFileRequest(
            name=self.wanted.name,
            media_type=self.wanted.media_type,
            purpose=self.wanted.purpose,
            expires_after_s=self.wanted.expires_after_s,
        )
        response = await self._calls.unary(CREATE, request, pb.CreateFileResponse)
        self._file_id = response.file.file_id

    async def write(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= PIECE_BYTES:
            piece = bytes(self._buffer[:PIECE_BYTES])
            del self._buffer[:PIECE_BYTES]
            await self._append(piece)

    async def finish(self, told: _Wanted) -> pb.File:
        """Completes the file; told: what is known of it by now."""
        if self._buffer:
            await self._append(bytes(self._buffer))
        if not self._size_bytes:
            raise InvalidArgument("the file is empty", field="file")
        request = pb.FinishFileRequest(
            file_id=self._file_id, size_bytes=self._size_bytes, sha256=self._digest.hexdigest()
        )
        file = (await self._calls.unary(FINISH, request, pb.FinishFileResponse)).file
        return file if told == self.wanted else await self._copied(told)

    async def drop(self) -> None:
        """Removes what was stored."""
        if self._file_id:
            with contextlib.suppress(MeshError):
                request = pb.DeleteFileRequest(file_id=self._file_id)
                await self._calls.unary(DELETE, request, pb.DeleteFileResponse)

    async def _append(self, piece: bytes) -> None:
        request = pb.AppendFileRequest(file_id=self._file_id, offset=self._size_bytes, data=piece)
        await self._calls.unary(APPEND, request, pb.AppendFileResponse)
        self._digest.update(piece)
        self._size_bytes += len(piece)

    async def _copied(self, told: _Wanted) -> pb.File:
        """The same bytes as a file of another kind; the first one is removed."""
        copy = _Upload(self._calls, told)
        try:
            await copy.begin()

            async def write(message: bytes) -> None:
                await copy.write(pb.ReadFileResponse.FromString(message).data)

            request: Any = pb.ReadFileRequest(file_id=self._file_id)
            await self._calls.stream(READ, request, write)
            file = await copy.finish(told)
        except BaseException:
            await copy.drop()
            raise
        await self.drop()
        return file
