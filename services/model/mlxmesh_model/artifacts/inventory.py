"""Lists the files of versions and what they take on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from mlxmesh_model.artifacts.folder import model_files
from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.records import FileRecords, Holdings
from mlxmesh_model.artifacts.survey import adapter_directories, stored_bytes
from mlxmesh_model.artifacts.unused import shared_bytes
from mlxmesh_model.catalogue.lifecycle import ON_DISK
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import MeshError


class ArtifactState(StrEnum):
    """What is known of a version's files."""

    STORED = "stored"
    EXTERNAL = "external"
    INCOMPLETE = "incomplete"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """The files of one version."""

    version: Version
    state: ArtifactState
    size_bytes: int
    shared_bytes: int
    verified_at: datetime | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the versions, in order, and sizes of the whole store."""

    items: Sequence[VersionFiles]
    has_more: bool
    stored_bytes: int
    prunable_bytes: int
    free_bytes: int


class Inventory:
    """Reads the catalogue and the store; changes nothing."""

    def __init__(self, *, store: Store, blobs: BlobStore, pruning: Pruning) -> None:
        self._records = FileRecords(store)
        self._blobs = blobs
        self._pruning = pruning

    async def page(self, *, after: tuple[str, int] = ("", 0), limit: int) -> Page:
        """The versions after one, by model and number."""
        holdings = await self._records.holdings()
        shown = [v for v in holdings.versions if (v.model, v.number) > after]
        removal = await self._pruning.find()
        return Page(
            items=await in_thread(_described, holdings, shown[:limit]),
            has_more=len(shown) > limit,
            stored_bytes=await in_thread(stored_bytes, self._blobs),
            prunable_bytes=removal.freed_bytes,
            free_bytes=self._blobs.disk.free_bytes(self._blobs.models_dir),
        )

    async def digests(self) -> frozenset[str]:
        """The digests of all versions and adapters, also of adapters that were removed lately."""
        holdings = await self._records.holdings()
        versions = {v.artifact.digest for v in holdings.versions if v.artifact is not None}
        kept = await in_thread(
            lambda: {digest for digest, _, _ in adapter_directories(self._blobs)}
        )
        return holdings.adapters | versions | kept

    async def describe(self, version: Version) -> VersionFiles:
        """The files of one version as they are now."""
        holdings = await self._records.holdings()
        [described] = await in_thread(_described, holdings, [version])
        return described


def state_of(version: Version) -> ArtifactState:
    """What is known of a version's files."""
    if version.state not in ON_DISK:
        return ArtifactState.INCOMPLETE
    if version.damaged_files:
        return ArtifactState.DAMAGED
    return ArtifactState.EXTERNAL if version.source.directory else ArtifactState.STORED


def _described(holdings: Holdings, versions: Sequence[Version]) -> list[VersionFiles]:
    shared = shared_bytes(_contents(holdings))
    return [
        VersionFiles(
            version,
            state_of(version),
            _size_bytes(holdings, version),
            shared.get(version.label, 0),
            holdings.verified_at.get((version.model, version.number)),
        )
        for version in versions
    ]


def _contents(holdings: Holdings) -> Mapping[str, Mapping[str, int]]:
    return {
        version.label: {file.key: file.size_bytes for file in holdings.stored_files_of(version)}
        for version in holdings.versions
    }


def _size_bytes(holdings: Holdings, version: Version) -> int:
    """By the records, or by the directory of a version that has none."""
    recorded = holdings.files_of(version)
    if recorded or version.artifact is None:
        return sum(file.size_bytes for file in recorded)
    try:
        files = model_files(Path(version.artifact.directory)).values()
        return sum(path.stat().st_size for path in files)
    except (MeshError, OSError):
        return 0
