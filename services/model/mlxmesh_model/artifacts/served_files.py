"""The files of the catalogue, for hosts that lack them."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mlxmesh_model.artifacts.folder import model_files
from mlxmesh_model.artifacts.records import FileRecords, Holdings
from mlxmesh_model.artifacts.stored_directory import ADAPTERS
from mlxmesh_model.catalogue.files import StoredFile
from mlxmesh_model.catalogue.lifecycle import ON_DISK
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.known_digests import KnownDigests
from mlxmesh_shared.artifacts.local_file import LocalFile
from mlxmesh_shared.artifacts.manifest import FileIdentity, Manifest, ManifestFile
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import ArtifactNotFound, MeshError, ModelFilesDamaged


class CatalogueFiles:
    """Implements `ServedFiles` on the catalogue and its store."""

    def __init__(self, *, store: Store, blobs: BlobStore, known: KnownDigests) -> None:
        self._records = FileRecords(store)
        self._blobs = blobs
        self._known = known
        self._reading = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._paths: dict[str, Path] = {}
        """By SHA-256: where the files of the manifests are that were asked for."""

    async def manifest(self, digest: str) -> Manifest:
        """The files of a version or adapter; see the port."""
        holdings = await self._records.holdings()
        async with self._reading[digest]:  # several hosts ask at once: files are read once
            manifest, directory = await in_thread(self._manifest, holdings, digest)
        self._paths.update((file.sha256, directory / file.name) for file in manifest.files)
        return manifest

    async def find(self, sha256: str, digest: str = "") -> LocalFile | None:
        """A file that is here; see the port."""
        stored = self._blobs.blob(sha256)
        if stored.is_file():
            return LocalFile(stored, stored.stat().st_size)
        if sha256 not in self._paths and digest:
            await self.manifest(digest)
        path = self._paths.get(sha256)
        return None if path is None else await in_thread(self._unchanged, path, sha256)

    def _unchanged(self, path: Path, sha256: str) -> LocalFile:
        try:
            if self._known.sha256(path) == sha256:
                return LocalFile(path, path.stat().st_size)
        except OSError:
            pass
        raise ModelFilesDamaged(
            f"{path} has changed, or is gone, since its model was registered; restore it, or"
            " register the directory again"
        )

    def _manifest(self, holdings: Holdings, digest: str) -> tuple[Manifest, Path]:
        """The files, and their directory. Raises: ArtifactNotFound, ModelFilesDamaged."""
        # Also one that was removed lately: generations that began with it still need it.
        adapter = self._blobs.models_dir.resolve() / ADAPTERS / digest
        if digest in holdings.adapters or adapter.is_dir():
            return self._of_adapter(digest, adapter)
        error: MeshError = ArtifactNotFound("no version and no adapter here has this digest")
        for version in _versions(holdings, digest):
            try:
                return self._of_version(version, holdings.files_of(version))
            except ModelFilesDamaged as damaged:
                error = damaged
        raise error

    def _of_version(
        self, version: Version, recorded: tuple[StoredFile, ...]
    ) -> tuple[Manifest, Path]:
        assert version.artifact is not None
        directory, digest = Path(version.artifact.directory), version.artifact.digest
        version.check_files()
        try:
            # Others may write to a registered directory.
            stored = () if version.source.directory else recorded
            manifest = Manifest(digest, _recorded(directory, stored))
            if not manifest.is_of_version:
                manifest = Manifest(digest, self._read(model_files(directory)))
        except (MeshError, OSError) as error:
            raise _changed(version, directory) from error
        if not manifest.is_of_version:
            raise _changed(version, directory)
        return manifest, directory

    def _of_adapter(self, digest: str, directory: Path) -> tuple[Manifest, Path]:
        try:
            files = {path.name: path for path in directory.iterdir()}
            return Manifest(digest, self._read(files)), directory
        except OSError as error:
            raise ModelFilesDamaged(
                f"the files of the adapter are missing in {directory}; add the adapter again"
            ) from error

    def _read(self, files: dict[str, Path]) -> tuple[ManifestFile, ...]:
        return tuple(
            _described(name, path, self._known.sha256(path)) for name, path in sorted(files.items())
        )


def _versions(holdings: Holdings, digest: str) -> Iterator[Version]:
    for version in holdings.versions:
        if version.artifact and version.artifact.digest == digest and version.state in ON_DISK:
            yield version


def _recorded(directory: Path, recorded: tuple[StoredFile, ...]) -> tuple[ManifestFile, ...]:
    """The files that the catalogue knows; none if one of them has another size by now."""
    files = tuple(_described(each.name, directory / each.name, each.sha256) for each in recorded)
    sizes = [each.size_bytes for each in recorded]
    return files if [each.size_bytes for each in files] == sizes else ()


def _described(name: str, path: Path, sha256: str) -> ManifestFile:
    found = path.stat()
    return ManifestFile(name, found.st_size, sha256, FileIdentity.of(found))


def _changed(version: Version, directory: Path) -> ModelFilesDamaged:
    return ModelFilesDamaged(
        f"the files of {version.label} in {directory} are gone, or differ from those that were"
        " registered; restore them, or register the directory again"
    )
