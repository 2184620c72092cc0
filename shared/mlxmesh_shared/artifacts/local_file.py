"""A file of this host that others may read, also while it still grows."""

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from mlxmesh_shared.artifacts.manifest import Manifest
from mlxmesh_shared.artifacts.threads import in_thread

CHUNK_BYTES = 2**20
_POLL_S = 0.05
_IDLE_S = 2.0


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A whole file, or the beginning of one that is being fetched."""

    path: Path
    size_bytes: int
    """Of the whole file."""
    complete: bool = True

    @property
    def available_bytes(self) -> int:
        """How much of it is here."""
        if self.complete:
            return self.size_bytes
        try:
            return min(self.path.stat().st_size, self.size_bytes)
        except OSError:
            return 0

    def open(self) -> BinaryIO:
        """For `chunks`. What is fetched gets another path when it is whole; who has it open reads
        on. Raises: OSError.
        """
        return self.path.open("rb")

    async def chunks(self, file: BinaryIO, offset: int) -> AsyncGenerator[tuple[int, bytes]]:
        """Yields offsets and bytes up to the end, and closes the file. What is still growing is
        followed, until it has not grown for 2 s. Raises: OSError.
        """
        idle_s = 0.0
        try:
            while offset < self.size_bytes and idle_s < _IDLE_S:
                chunk = await in_thread(_read, file.fileno(), offset)
                if chunk:
                    yield offset, chunk
                    offset, idle_s = offset + len(chunk), 0.0
                elif self.complete:
                    return  # it was shortened; the reader notices that bytes are missing
                else:
                    await asyncio.sleep(_POLL_S)
                    idle_s += _POLL_S
        finally:
            file.close()


def _read(descriptor: int, offset: int) -> bytes:
    return os.pread(descriptor, CHUNK_BYTES, offset)


class ServedFiles(Protocol):
    """The files of a process that others may fetch."""

    async def manifest(self, digest: str) -> Manifest:
        """The files of a version or adapter.

        Raises: ArtifactNotFound. ModelFilesDamaged for a directory that has changed.
        """
        ...

    async def find(self, sha256: str, digest: str = "") -> LocalFile | None:
        """A file, if it is here; digest: of a version or adapter that has it, if that is known.

        Raises: ModelFilesDamaged.
        """
        ...
