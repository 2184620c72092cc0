"""A partially downloaded file and its checksum."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_model.artifacts.folder import sha256

SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at the hub; its checksum is a SHA-256 or, for small files, a git object id."""

    name: str
    size_bytes: int
    sha256: str
    git_oid: str


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file that is being downloaded; different content at the hub has a different path."""

    file: HubFile
    directory: Path

    @property
    def path(self) -> Path:
        """The incomplete file."""
        checksum = self.file.sha256 or self.file.git_oid
        return self.directory / f"{self.file.name}.{checksum[:16]}{SUFFIX}"

    @property
    def final_path(self) -> Path:
        """The complete file."""
        return self.directory / self.file.name

    @property
    def complete(self) -> bool:
        """Whether the complete file exists; `is_content` checks its content."""
        return self.final_path.exists()

    @property
    def size_bytes(self) -> int:
        """Bytes downloaded so far."""
        if self.complete:
            return self.file.size_bytes
        return self.path.stat().st_size if self.path.exists() else 0

    def write_at(self, offset: int, chunk: bytes) -> None:
        """Writes a chunk and truncates the file after it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(chunk)
            file.truncate()

    def finish(self) -> bool:
        """Renames the file to its final name if its checksum matches, otherwise removes it."""
        if not self.path.exists():
            self.write_at(0, b"")  # an empty file has no chunks
        if not self.is_content(self.path):
            self.path.unlink()
            return False
        self.path.replace(self.final_path)
        return True

    def is_content(self, path: Path) -> bool:
        """Whether a file matches the announced size and checksum; reads the whole file."""
        if path.stat().st_size != self.file.size_bytes:
            return False
        if self.file.sha256:
            return sha256(path) == self.file.sha256
        content = path.read_bytes()
        # Source: git's object format, `blob <size>\0<content>`; git names objects by SHA-1.
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return blob.hexdigest() == self.file.git_oid
