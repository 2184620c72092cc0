"""The files that a version or an adapter consists of, as one host tells another. Pure."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlxmesh_shared.artifacts.digests import digest_of
from mlxmesh_shared.artifacts.remote_file import RemoteFile
from mlxmesh_shared.errors import FetchFailed

# A file of the directory, or of a folder in it: nothing that leads elsewhere.
_NAME = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]{0,250}/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,250}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one file of a host from another, and from itself before it was written again."""

    device: int
    inode: int
    modified_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> "FileIdentity":
        """That of a file whose status was read."""
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file; `identity` is that of the file at the host that told of it."""

    name: str
    size_bytes: int
    sha256: str
    identity: FileIdentity | None = None

    @property
    def remote(self) -> RemoteFile:
        """The file as the store knows it."""
        return RemoteFile(self.name, self.size_bytes, self.sha256, "")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files behind a digest."""

    digest: str
    files: tuple[ManifestFile, ...]

    @property
    def total_bytes(self) -> int:
        """The bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def digests(self) -> Mapping[str, str]:
        """The SHA-256 of each file, by name."""
        return {file.name: file.sha256 for file in self.files}

    @property
    def is_of_version(self) -> bool:
        """Whether the digest follows from the files, as that of a version does."""
        return digest_of(self.digests) == self.digest

    def checked(self) -> "Manifest":
        """This manifest. Raises: FetchFailed for one that no host of a mesh makes."""
        names = {file.name for file in self.files}
        legal = all(_NAME.fullmatch(f.name) and _SHA256.fullmatch(f.sha256) for f in self.files)
        if not self.files or not legal or len(names) < len(self.files):
            raise FetchFailed(
                f"another process sent an illegal list of files for {self.digest}; run the same"
                " version of mlxmesh on all hosts"
            )
        return self

    def to_json(self) -> bytes:
        """For a file on disk, without what holds only for one host."""
        files = [{**asdict(file), "identity": None} for file in self.files]
        return json.dumps({"digest": self.digest, "files": files}).encode()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Manifest":
        """Raises: KeyError, TypeError for other content than that of `to_json`."""
        files = tuple(
            ManifestFile(str(each["name"]), int(each["size_bytes"]), str(each["sha256"]))
            for each in content["files"]
        )
        return cls(str(content["digest"]), files)
