"""Reads the files of versions again and compares them with their digests."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlxmesh_model.artifacts.folder import model_files
from mlxmesh_model.artifacts.records import FileRecords, Holdings
from mlxmesh_model.artifacts.stored_directory import own_directory
from mlxmesh_model.catalogue.files import StoredFile
from mlxmesh_model.catalogue.lifecycle import ON_DISK
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.digests import digest_of
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import MeshError, ModelNotFound
from mlxmesh_shared.reference import ModelReference

_INTERVAL_S = 0.1
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Check:
    """Progress of a verification; `version` is one that has been checked."""

    done_bytes: int
    total_bytes: int
    version: Version | None = None


@dataclass(slots=True)
class _Reading:
    """The bytes read so far, the digests of files that several versions have, and a stop."""

    done_bytes: int = 0
    total_bytes: int = 0
    digests: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a check of a version found."""

    damaged: tuple[str, ...]
    files: tuple[StoredFile, ...]


class Verification:
    """Checks versions one after another and records what it finds."""

    def __init__(self, *, store: Store, blobs: BlobStore) -> None:
        self._store = store
        self._records = FileRecords(store)
        self._blobs = blobs

    async def verify(self, reference: ModelReference | None) -> AsyncGenerator[Check]:
        """Yields progress at most ten times a second, and each version that has been checked.

        A file that several versions have is read once. A damaged file is no longer used for others.
        Raises: ModelNotFound.
        """
        holdings = await self._records.holdings()
        versions = [v for v in _chosen(holdings, reference) if v.state in ON_DISK and v.artifact]
        reading = _Reading()
        reading.total_bytes = await in_thread(_total_bytes, holdings, versions)
        try:
            for version in versions:
                work = asyncio.to_thread(_check, version, holdings.files_of(version), reading)
                task = asyncio.create_task(work)
                while not task.done():
                    yield Check(reading.done_bytes, reading.total_bytes)
                    await asyncio.wait({task}, timeout=_INTERVAL_S)
                checked = await self._recorded(version, task.result())
                if checked is not None:
                    yield Check(reading.done_bytes, reading.total_bytes, checked)
        finally:
            reading.stop.set()

    async def _recorded(self, version: Version, found: _Found) -> Version | None:
        """The version after the check; None if it was removed meanwhile."""
        await in_thread(self._sort, version, found)
        await self._records.set_check(version, found.damaged, found.files)
        try:
            return (await self._store.model(version.model)).version(version.number)
        except ModelNotFound:
            return None

    def _sort(self, version: Version, found: _Found) -> None:
        """Stores the files of a whole directory that is older than the store; takes damaged ones
        out of the store, so that the next pull downloads them again.
        """
        directory = own_directory(self._blobs, version)
        if directory is None or version.artifact is None:
            return
        if not found.damaged:
            digests = {file.name: file.sha256 for file in found.files}
            self._blobs.absorb(Path(version.artifact.directory), digests)
        for file in found.files:
            if file.name in found.damaged:
                self._blobs.discard_damaged(file.sha256)


def _chosen(holdings: Holdings, reference: ModelReference | None) -> list[Version]:
    if reference is None:
        return holdings.versions
    for model in holdings.models:
        if model.name == reference.name:
            bare = reference.version is None and reference.alias is None
            return list(model.versions) if bare else [model.resolve(reference)]
    raise ModelNotFound(f"there is no model {reference.name}", field="model")


def _total_bytes(holdings: Holdings, versions: list[Version]) -> int:
    sizes: dict[tuple[int, int], int] = {}
    for version in versions:
        for path in _paths(version, holdings.files_of(version)).values():
            if path.is_file():
                found = path.stat()
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def _paths(version: Version, recorded: tuple[StoredFile, ...]) -> Mapping[str, Path]:
    """The files that a version should have, or has if they were never recorded."""
    assert version.artifact is not None
    directory = Path(version.artifact.directory)
    if recorded:
        return {file.name: directory / file.name for file in recorded}
    try:
        return model_files(directory)
    except (MeshError, OSError):
        return {}


def _check(version: Version, recorded: tuple[StoredFile, ...], reading: _Reading) -> _Found:
    paths = sorted(_paths(version, recorded).items())
    read = {name: _read(name, path, reading) for name, path in paths}
    if recorded:
        damaged = tuple(f.name for f in recorded if read[f.name].sha256 != f.sha256)
        return _Found(damaged, recorded)
    assert version.artifact is not None
    # Only the digest of the whole is known: any of them may be the one that differs.
    digests = {name: file.sha256 for name, file in read.items()}
    whole = bool(read) and digest_of(digests) == version.artifact.digest
    return _Found(() if whole else tuple(read) or ("*",), tuple(read.values()))


def _read(name: str, path: Path, reading: _Reading) -> StoredFile:
    """The file with its digest, which is empty if it cannot be read."""
    try:
        found = path.stat()
        known = reading.digests.get((found.st_dev, found.st_ino))
        if known is None:
            known = _sha256(path, reading)
            reading.digests[found.st_dev, found.st_ino] = known
    except OSError:
        return StoredFile(name, 0)
    return StoredFile(name, found.st_size, known)


def _sha256(path: Path, reading: _Reading) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while not reading.stop.is_set() and (chunk := file.read(_READ_BYTES)):
            digest.update(chunk)
            reading.done_bytes += len(chunk)
    return digest.hexdigest()
