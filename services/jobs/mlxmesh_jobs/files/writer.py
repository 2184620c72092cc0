"""Writes a file of a job in pieces; what an earlier attempt stored of it is not written again."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from mlxmesh_jobs.domain.ports import FileStore, StoredFile
from mlxmesh_shared.errors import FileNotFound

PIECE_BYTES = 1_048_576


@dataclass
class FileWriter:
    """Writes one file from its beginning. The same bytes must be written each time."""

    store: FileStore
    wanted: StoredFile
    """The file, with its id; begun with the first piece."""
    size_bytes: int = 0
    """What was written, or is stored already."""
    _buffer: bytearray = field(default_factory=bytearray)
    _stored_bytes: int = -1
    """Before this writer; -1 while the file is not begun."""
    _digest: Any = field(default_factory=hashlib.sha256)

    async def write(self, data: bytes) -> None:
        """Raises: DiskFull, FilesFull."""
        self._buffer += data
        while len(self._buffer) >= PIECE_BYTES:
            piece = bytes(self._buffer[:PIECE_BYTES])
            del self._buffer[:PIECE_BYTES]
            await self._append(piece)

    async def finish(self) -> StoredFile | None:
        """Completes the file; None if nothing was written. Raises: DiskFull, FilesFull."""
        if self._buffer:
            await self._append(bytes(self._buffer))
            self._buffer.clear()
        if not self.size_bytes:
            return None
        return await self.store.finish(
            self.wanted.file_id, self.size_bytes, self._digest.hexdigest()
        )

    async def _append(self, piece: bytes) -> None:
        if self._stored_bytes < 0:
            self._stored_bytes = await self._begin()
        self._digest.update(piece)
        end = self.size_bytes + len(piece)
        if end > self._stored_bytes:
            await self.store.append(self.wanted.file_id, self.size_bytes, piece)
        self.size_bytes = end

    async def _begin(self) -> int:
        """How much of the file is stored."""
        try:
            return (await self.store.get(self.wanted.file_id)).size_bytes
        except FileNotFound:
            return (await self.store.create(self.wanted)).size_bytes
