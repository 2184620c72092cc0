"""The directories of versions whose files are in the store."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlxmesh_model.artifacts.folder import inspect, model_files
from mlxmesh_model.catalogue.files import StoredFile
from mlxmesh_model.catalogue.models import Artifact, Version
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.digests import sha256
from mlxmesh_shared.errors import InvalidArgument

# No model's name starts with an underscore: pulled models are stored beside this folder.
IMPORTED = "_imported"
ADAPTERS = "_adapters"
"""The folder of adapters beside it, by their digests."""


@dataclass(frozen=True, slots=True)
class StoredDirectory:
    """A directory in its place, with its files."""

    artifact: Artifact
    files: tuple[StoredFile, ...]

    @property
    def directory(self) -> Path:
        """Where it is."""
        return Path(self.artifact.directory)

    @property
    def digests(self) -> Mapping[str, str]:
        """The SHA-256 of each file, by name."""
        return {file.name: file.sha256 for file in self.files}


def stored_files(directory: Path, digests: Mapping[str, str]) -> tuple[StoredFile, ...]:
    """The files of a directory with their sizes."""
    return tuple(
        StoredFile(name, (directory / name).stat().st_size, digest)
        for name, digest in sorted(digests.items())
    )


def validated(staged: Path, directory: Path, kind: str = "") -> StoredDirectory:
    """A converted directory as it will be in its place; reads all of its files.

    kind: what it serves; empty if its files decide.
    Raises: InvalidArgument, OSError.
    """
    digests = {name: sha256(path) for name, path in model_files(staged).items()}
    artifact = inspect(staged, field="file", known_sha256=digests, kind=kind)
    files = stored_files(staged, digests)
    return StoredDirectory(replace(artifact, directory=str(directory)), files)


def store_directory(blobs: BlobStore, staged: Path, stored: StoredDirectory) -> None:
    """Stores the files of a validated directory and moves it to its place. Raises: OSError."""
    blobs.absorb(staged, stored.digests)
    blobs.publish(staged, stored.directory)
    blobs.restore(stored.directory, stored.digests)


def directory_of(blobs: BlobStore, version: Version) -> Path:
    """The directory of a pulled version, which is always inside models_dir and never a link."""
    root = blobs.models_dir.resolve()
    directory = (root / version.model / str(version.number)).resolve()
    if directory != root / version.model / str(version.number):
        raise InvalidArgument(
            f"{directory} is a link; the directory of a pulled model must not be one", field="name"
        )
    return directory


def own_directory(blobs: BlobStore, version: Version) -> Path | None:
    """The directory of a version that this service made, which goes with it; else None."""
    source, artifact = version.source, version.artifact
    if source.repo_id:
        try:
            return directory_of(blobs, version)
        except InvalidArgument:
            return None
    if not source.file or artifact is None:
        return None
    directory = Path(artifact.directory)
    imported = blobs.models_dir.resolve() / IMPORTED
    return directory if directory.parent.parent == imported else None
