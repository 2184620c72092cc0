"""Files that back ends read and make: media types by content, limits of sizes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator

from mlxmesh_shared.errors import BackEndFailed, InvalidArgument, OutputTooLarge
from mlxmesh_worker.connectors.port import Made, Reports

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_FILES = 256
MAX_NAME_LENGTH = 128
_PIECE_BYTES = 256 * 1024
_MOST_MAGIC_BYTES = 16


def media_type_of(beginning: bytes) -> str:
    """The media type of a file that begins so, at least its first 16 bytes."""
    for magic, media_type in (
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"\x1aE\xdf\xa3", "video/webm"),
        (b"fLaC", "audio/flac"),
    ):
        if beginning.startswith(magic):
            return media_type
    if beginning.startswith(b"RIFF"):
        kinds = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
        return kinds.get(beginning[8:12], "application/octet-stream")
    return "video/mp4" if beginning[4:8] == b"ftyp" else "application/octet-stream"


def extension_of(beginning: bytes) -> str:
    """The usual end of the name of a file that begins so."""
    kind = media_type_of(beginning).partition("/")[2]
    return {"jpeg": ".jpg", "octet-stream": ".bin"}.get(kind, f".{kind}")


def legal_name(name: str) -> str:
    """A name without folders and without characters that a file system would mind."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._ -]", "_", last).lstrip(". ")[:MAX_NAME_LENGTH] or "output"


async def read_input(reports: Reports, name: str) -> bytes:
    """A whole input file. Raises: InvalidArgument if it is too large."""
    content = bytearray()
    async for piece in reports.read(name):
        content += piece
        if len(content) > MAX_FILE_BYTES:
            raise InvalidArgument(
                f"the input file {name} is above {MAX_FILE_BYTES:,} bytes", field="input_file_ids"
            )
    return bytes(content)


class Outputs:
    """Stores the files of one run. Raises: OutputTooLarge if they are too many."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.made: list[Made] = []

    async def store(self, name: str, chunks: AsyncIterator[bytes]) -> Made:
        """Stores what the chunks make; their reader limits their size."""
        if len(self.made) >= MAX_FILES:
            raise OutputTooLarge(f"the back end made more than {MAX_FILES} files; ask for fewer")
        beginning = b""
        async for chunk in chunks:
            beginning += chunk
            if len(beginning) >= _MOST_MAGIC_BYTES:
                break
        made = await self._reports.store(
            legal_name(name), media_type_of(beginning), _joined(beginning, chunks)
        )
        self.made.append(made)
        return made

    async def store_base64(self, stem: str, text: str) -> Made:
        """Stores an image that arrived within JSON, named by its content."""
        if len(text) * 3 // 4 > MAX_FILE_BYTES:
            raise OutputTooLarge(
                f"an image is above {MAX_FILE_BYTES:,} bytes; ask for a smaller one"
            )
        try:
            # Some servers send a data URL.
            content = base64.b64decode(text.rpartition(",")[2], validate=True)
        except (binascii.Error, ValueError):
            raise BackEndFailed("the back end sent an image that is not in base64") from None
        return await self.store(stem + extension_of(content[:_MOST_MAGIC_BYTES]), _pieces(content))


async def _joined(beginning: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield beginning
    async for chunk in rest:
        yield chunk


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]
