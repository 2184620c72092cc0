"""What the catalogue knows of the files of versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlxmesh_model.catalogue import files, queries
from mlxmesh_model.catalogue.files import StoredFile, VersionKey
from mlxmesh_model.catalogue.models import Model, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable


@dataclass(frozen=True, slots=True)
class Holdings:
    """All models, with the files of their versions and when they were verified."""

    models: Sequence[Model]
    files: Mapping[VersionKey, tuple[StoredFile, ...]]
    verified_at: Mapping[VersionKey, datetime]
    last_versions: Mapping[str, int]
    """The largest version number that each model ever had, also those that were removed."""

    @property
    def versions(self) -> list[Version]:
        """All versions that have files or will have some, by model and number."""
        versions = [version for model in self.models for version in model.versions]
        return [version for version in versions if version.upstream is None]

    @property
    def adapters(self) -> frozenset[str]:
        """The digests of all adapters."""
        return frozenset(
            adapter.digest for model in self.models for adapter in model.adapters.values()
        )

    @property
    def directories(self) -> frozenset[Path]:
        """The directories of all versions."""
        return frozenset(Path(v.artifact.directory) for v in self.versions if v.artifact)

    def files_of(self, version: Version) -> tuple[StoredFile, ...]:
        """The recorded files of a version; none for one that was registered and never verified."""
        return self.files.get((version.model, version.number), ())

    def stored_files_of(self, version: Version) -> tuple[StoredFile, ...]:
        """Those of them that are in the store: none of a directory that is used in place."""
        return () if version.source.directory else self.files_of(version)


class FileRecords:
    """Reads and changes what the catalogue knows of files, through the store of models."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def transactions(self) -> Transactions:
        """The transactions of the catalogue."""
        return self._store.transactions

    @uncancellable
    async def holdings(self) -> Holdings:
        """The whole catalogue at one moment."""
        return await self.transactions.read(_holdings)

    @uncancellable
    async def set_files(self, version: Version, found: Sequence[StoredFile]) -> None:
        """Records the files of a version; does nothing for a version that was removed."""
        async with self._store.changing(version.model) as (session, model):
            if _has(model, version):
                await files.put_files(session, version.model, version.number, found)

    @uncancellable
    async def set_check(
        self, version: Version, damaged: Sequence[str], found: Sequence[StoredFile]
    ) -> datetime:
        """Records what a check of a version found, and its files if it found none damaged."""
        now = datetime.now(UTC)
        async with self._store.changing(version.model) as (session, model):
            if _has(model, version):
                await files.put_check(session, version.model, version.number, damaged, now)
                if found and not damaged:
                    await files.put_files(session, version.model, version.number, found)
        return now


async def _holdings(session: Session) -> Holdings:
    return Holdings(
        await queries.read_models(session, "name > $1", ""),
        await files.read_files(session),
        await files.read_check_times(session),
        await files.read_last_versions(session),
    )


def _has(model: Model | None, version: Version) -> bool:
    return model is not None and any(one.number == version.number for one in model.versions)
