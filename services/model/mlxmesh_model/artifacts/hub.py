"""The port of a model hub, and files that are downloaded in parts."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mlxmesh_model.artifacts.folder import sha256
from mlxmesh_model.artifacts.progress import Progress

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


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model at one commit, with the files needed to serve it."""

    repo_id: str
    commit: str
    files: tuple[HubFile, ...]
    """One GGUF file, or the files of an mlx-lm model."""

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def sha256_by_name(self) -> Mapping[str, str]:
        """The SHA-256 of each file for which the hub reports one."""
        return {file.name: file.sha256 for file in self.files if file.sha256}


class Hub(Protocol):
    """Where models are pulled from."""

    async def find(self, repo_id: str, revision: str, file: str = "") -> HubModel:
        """The files of a model; with `file`, only that one.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument.
        """
        ...

    async def download(self, model: HubModel, directory: Path, progress: Progress) -> None:
        """Downloads every file into a directory and verifies it. After a cancelled or failed call,
        the next one continues from the files that exist, and removes those of other commits.
        Raises: HubUnavailable.
        """
        ...


class HubOnDemand:
    """A hub that is opened on first use, because its libraries are slow to import."""

    def __init__(self, open_hub: Callable[[], Hub]) -> None:
        self._open = open_hub

    @cached_property
    def _hub(self) -> Hub:
        return self._open()

    async def find(self, repo_id: str, revision: str, file: str = "") -> HubModel:
        """The files of a model; see the port."""
        return await self._hub.find(repo_id, revision, file)

    async def download(self, model: HubModel, directory: Path, progress: Progress) -> None:
        """Downloads every file into a directory; see the port."""
        await self._hub.download(model, directory, progress)
