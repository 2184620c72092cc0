"""The files that this host has: fetched ones in a store of their own, and those at shared paths."""

import json
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.disk import Disk
from mlxmesh_shared.artifacts.known_digests import KnownDigests
from mlxmesh_shared.artifacts.local_file import LocalFile
from mlxmesh_shared.artifacts.manifest import FileIdentity, Manifest
from mlxmesh_shared.artifacts.part_file import SUFFIX, PartFile
from mlxmesh_shared.artifacts.remote_file import RemoteFile
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import ArtifactNotFound
from mlxmesh_shared.host.atomic_file import write_atomically

FOLDER = "fetched"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be."""

    files: int
    freed_bytes: int


class HeldFiles:
    """Implements `ServedFiles`; its other methods block.

    fetched/DIGEST/              a version or adapter, made of links to the store's files
    fetched/_store/manifests/    the files of each digest
    fetched/_store/blobs, parts  as in every store
    """

    def __init__(self, data_dir: Path, disk: Disk | None = None) -> None:
        self.blobs = BlobStore(data_dir / FOLDER, disk)
        self._known = KnownDigests(data_dir / "path_digests.json")
        self._lock = threading.Lock()
        self._elsewhere: dict[str, Path] = {}
        """By SHA-256: files at shared paths that were compared with their digests."""
        self._growing: dict[str, int] = {}
        """The sizes of the files that are being fetched, by SHA-256."""

    # What others may fetch.

    async def manifest(self, digest: str) -> Manifest:
        """The files of a digest that was fetched, or is being fetched; see the port."""
        manifest = await in_thread(self.stored_manifest, digest)
        if manifest is None:
            raise ArtifactNotFound("this runtime has fetched nothing with this digest")
        return manifest

    async def find(self, sha256: str, digest: str = "") -> LocalFile | None:
        """A file that is here, or is being fetched; see the port."""
        return await in_thread(self._find, sha256)

    def _find(self, sha256: str) -> LocalFile | None:
        blob = self.blobs.blob(sha256)
        with suppress(FileNotFoundError):
            return LocalFile(blob, blob.stat().st_size)
        with self._lock:
            size_bytes, elsewhere = self._growing.get(sha256), self._elsewhere.get(sha256)
        if size_bytes is not None:
            part = self.part(RemoteFile("", size_bytes, sha256, ""))
            return LocalFile(part.path, size_bytes, complete=False) if part.size_bytes else None
        if elsewhere is not None:
            with suppress(OSError):
                if self._known.sha256(elsewhere) == sha256:
                    return LocalFile(elsewhere, elsewhere.stat().st_size)
        return None

    # Directories.

    def directory(self, digest: str) -> Path:
        """Where the directory of a fetched version or adapter is, or will be."""
        return self.blobs.models_dir.resolve() / digest

    def whole_directory(self, digest: str) -> Path | None:
        """The directory of a fetched version or adapter whose files are all there."""
        manifest, directory = self.stored_manifest(digest), self.directory(digest)
        if manifest is None:
            return None
        try:
            whole = all(
                (directory / file.name).stat().st_size == file.size_bytes for file in manifest.files
            )
        except OSError:
            return None
        return directory if whole else None

    def publish(self, manifest: Manifest, staged: Path) -> Path:
        """Makes the directory of a digest whose files are in the store.

        staged: a directory that does not exist yet. Raises: BlobMissing, OSError.
        """
        directory = self.directory(manifest.digest)
        self.blobs.fill(staged, manifest.digests)
        self.blobs.publish(staged, directory)
        return directory

    def same_files(self, directory: Path, manifest: Manifest) -> bool:
        """Whether a directory of this host has the files. Those that the model service does not
        have at the same place are read, once for as long as they do not change.
        """
        try:
            for file in manifest.files:
                path = directory / file.name
                found = path.stat()
                if found.st_size != file.size_bytes:
                    return False
                if FileIdentity.of(found) != file.identity:
                    if self._known.sha256(path) != file.sha256:
                        return False
                    with self._lock:
                        self._elsewhere[file.sha256] = path
        except OSError:
            return False
        return True

    # Manifests.

    def stored_manifest(self, digest: str) -> Manifest | None:
        """The files of a digest that was fetched, or is being fetched."""
        try:
            return Manifest.from_json(json.loads(self._manifest_path(digest).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def store_manifest(self, manifest: Manifest) -> None:
        """Keeps it. Raises: OSError."""
        path = self._manifest_path(manifest.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, manifest.to_json(), mode=0o644)

    def _manifest_path(self, digest: str) -> Path:
        return self.blobs.root / "manifests" / digest

    # Bytes.

    def part(self, file: RemoteFile) -> PartFile:
        """The bytes of a file so far."""
        return self.blobs.part(file)

    def begin(self, file: RemoteFile) -> None:
        """From now on others may read what is here of a file."""
        with self._lock:
            self._growing[file.sha256] = file.size_bytes

    def end(self, file: RemoteFile) -> None:
        """From now on others may read the file only if it is whole."""
        with self._lock:
            self._growing.pop(file.sha256, None)

    def present_bytes(self, file: RemoteFile) -> int:
        """How much of a file is here."""
        if self.blobs.digest_of(file):
            return file.size_bytes
        return min(self.part(file).size_bytes, file.size_bytes)

    def stored_bytes(self) -> int:
        """Bytes of all fetched files, also of incomplete ones."""
        found = [*_files(self.blobs.blobs), *_files(self.blobs.parts)]
        return sum(size for _, size in found)

    # Pruning.

    def prune(self, needed: Collection[str], *, dry_run: bool) -> Pruned:
        """Removes the directories and files of all other digests."""
        unneeded = [digest for digest in self._digests() if digest not in needed]
        kept = {
            file.sha256
            for digest in self._digests()
            if digest in needed and (manifest := self.stored_manifest(digest)) is not None
            for file in manifest.files
        }
        with self._lock:
            kept |= self._growing.keys()
        unused = [
            (path, size)
            for path, size in (*_files(self.blobs.blobs), *_files(self.blobs.parts))
            if path.name.removesuffix(SUFFIX) not in kept
        ]
        if not dry_run:
            for digest in unneeded:
                self.blobs.remove_directory(self.directory(digest))
                self._manifest_path(digest).unlink(missing_ok=True)
            for path, _ in unused:
                path.unlink(missing_ok=True)
            self.blobs.clean_staging()
            self.blobs.remove_unused_locks()
        return Pruned(len(unused), sum(size for _, size in unused))

    def _digests(self) -> set[str]:
        folders = (self.blobs.root / "manifests", self.blobs.models_dir)
        names = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
        return {name for name in names if not name.startswith((".", "_"))}


def _files(folder: Path) -> list[tuple[Path, int]]:
    found: list[tuple[Path, int]] = []
    for path in folder.rglob("*") if folder.is_dir() else ():
        with suppress(OSError):
            if path.is_file():
                found.append((path, path.stat().st_size))
    return found
