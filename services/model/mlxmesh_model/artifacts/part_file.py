"""A file of a model while it is being downloaded, and its checksum."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_model.artifacts.folder import sha256

SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at the hub; its checksum is a SHA-256, or, for small ones, git's object id."""

    name: str
    size_bytes: int
    sha256: str
    git_oid: str


@dataclass(frozen=True, slots=True)
class PartFile:
    """Where a file grows; another content at the hub gets another place."""

    file: HubFile
    directory: Path

    @property
    def path(self) -> Path:
        """The incomplete file."""
        checksum = self.file.sha256 or self.file.git_oid
        return self.directory / f"{self.file.name}.{checksum[:16]}{SUFFIX}"

    @property
    def final_path(self) -> Path:
        """The whole file."""
        return self.directory / self.file.name

    @property
    def complete(self) -> bool:
        """Whether there is a whole file of that name; what it holds, `is_content` tells."""
        return self.final_path.exists()

    @property
    def size_bytes(self) -> int:
        """Bytes that are there already."""
        if self.complete:
            return self.file.size_bytes
        return self.path.stat().st_size if self.path.exists() else 0

    def write_at(self, offset: int, chunk: bytes) -> None:
        """Writes a piece; whatever was behind it goes."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(chunk)
            file.truncate()

    def finish(self) -> bool:
        """Gives the file its name when its content is what the hub announced, else removes it."""
        if not self.path.exists():
            self.write_at(0, b"")  # an empty file has no piece
        if not self.is_content(self.path):
            self.path.unlink()
            return False
        self.path.replace(self.final_path)
        return True

    def is_content(self, path: Path) -> bool:
        """Whether a file holds what the hub announced; reads it whole."""
        if path.stat().st_size != self.file.size_bytes:
            return False
        if self.file.sha256:
            return sha256(path) == self.file.sha256
        content = path.read_bytes()
        # Source: git's object format, `blob <size>\0<content>`; git names objects by SHA-1.
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return blob.hexdigest() == self.file.git_oid
