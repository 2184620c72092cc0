"""A file that is being downloaded."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from mlxmesh_shared.artifacts.digests import sha256
from mlxmesh_shared.artifacts.disk import Disk, LocalDisk
from mlxmesh_shared.artifacts.remote_file import RemoteFile

SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class PartFile:
    """The bytes of a file so far; different content has a different path."""

    file: RemoteFile
    directory: Path
    disk: Disk = field(default_factory=LocalDisk)

    @property
    def path(self) -> Path:
        """The incomplete file."""
        return self.directory / f"{self.file.key}{SUFFIX}"

    @property
    def size_bytes(self) -> int:
        """Bytes downloaded so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write_at(self, offset: int, chunk: bytes) -> None:
        """Writes a chunk and truncates the file after it."""
        self.disk.write_at(self.path, offset, chunk)

    def remove(self) -> None:
        """Removes the bytes."""
        self.path.unlink(missing_ok=True)

    def verified(self) -> str:
        """The SHA-256 of the complete file; empty, and the file is removed, if size or checksum
        differ from what the hub announced.
        """
        if not self.path.exists():
            self.write_at(0, b"")  # an empty file has no chunks
        digest = self._verified()
        if not digest:
            self.remove()
        return digest

    def _verified(self) -> str:
        if self.path.stat().st_size != self.file.size_bytes:
            return ""
        digest = sha256(self.path)
        if self.file.sha256:
            return digest if digest == self.file.sha256 else ""
        # Source: git's object format, `blob <size>\0<content>`; git names objects by SHA-1.
        blob = hashlib.sha1(b"blob %d\0" % self.file.size_bytes, usedforsecurity=False)
        with self.path.open("rb") as file:
            while chunk := file.read(2**20):
                blob.update(chunk)
        return digest if blob.hexdigest() == self.file.git_oid else ""
