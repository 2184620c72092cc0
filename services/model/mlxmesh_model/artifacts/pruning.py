"""Removes the files of the store that no version needs."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_model.artifacts.records import FileRecords, Holdings
from mlxmesh_model.artifacts.stored_directory import own_directory
from mlxmesh_model.artifacts.survey import (
    adapter_directories,
    directory_files,
    files_of_store,
    version_directories,
)
from mlxmesh_model.artifacts.unused import FileOnDisk, Needs, unused
from mlxmesh_model.catalogue.lifecycle import ON_DISK, State
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.threads import in_thread

UNFINISHED_AFTER_S = 604_800
ADAPTER_UNUSED_AFTER_S = 90_000.0
"""How long a removed adapter is kept: longer than any generation runs that began with it."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to be removed."""

    directories: tuple[Path, ...]
    files: tuple[FileOnDisk, ...]
    """Those of the directories too, unless they have other names."""

    @property
    def freed_bytes(self) -> int:
        """The bytes that the removal frees."""
        return sum(file.size_bytes for file in self.files)


class Pruning:
    """Finds and removes unused files; one removal at a time."""

    def __init__(
        self, *, store: Store, blobs: BlobStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._records = FileRecords(store)
        self._blobs = blobs
        self._clock = clock
        self._removing = asyncio.Lock()

    async def find(self, *, unfinished_after_s: float = UNFINISHED_AFTER_S) -> Removal:
        """What a removal would remove."""
        holdings = await self._records.holdings()
        return await in_thread(self._find, holdings, unfinished_after_s)

    async def prune(self, *, unfinished_after_s: float = UNFINISHED_AFTER_S) -> Removal:
        """Removes the files of no version, and of unfinished pulls without progress for so long."""
        async with self._removing:
            removal = await self.find(unfinished_after_s=unfinished_after_s)
            await in_thread(self._remove, removal)
            await in_thread(self._tidy)
            return removal

    async def sweep(self) -> None:
        """Removes the files of no version; unfinished pulls keep theirs."""
        async with self._removing:
            removal = await self.find(unfinished_after_s=float("inf"))
            await in_thread(self._remove, removal)

    async def release(self, versions: Sequence[Version]) -> None:
        """Removes the directories of removed versions, and their files unless others have them."""
        others = (await self._records.holdings()).directories
        for version in versions:
            directory = own_directory(self._blobs, version)
            if directory is not None and directory not in others:
                await in_thread(self._blobs.remove_directory, directory)
                gguf = directory.with_name(f"{directory.name}.gguf")
                await in_thread(self._blobs.remove_directory, gguf)
        await self.sweep()

    def _find(self, holdings: Holdings, unfinished_after_s: float) -> Removal:
        directories = (*self._orphans(holdings), *self._unused_adapters(holdings))
        removed = Counter[tuple[int, int]]()
        inside = [file for path in directories for file in directory_files(path, removed)]
        found = unused(
            files_of_store(self._blobs, removed, ()),
            self._needs(holdings),
            now_s=self._clock(),
            unfinished_after_s=unfinished_after_s,
        )
        alone = [file for file in inside if not file.links]
        free = [file for file in found if not self._is_locked(file.key)]
        return Removal(directories, (*alone, *free))

    def _orphans(self, holdings: Holdings) -> list[Path]:
        """Directories of versions that were removed while their files could not be."""
        numbers = {(version.model, version.number) for version in holdings.versions}
        return [
            directory
            for model, number, directory in version_directories(self._blobs)
            if (model, number) not in numbers
            # Not a directory that was here before the catalogue, which may be a new one.
            and number <= holdings.last_versions.get(model, 0)
            and directory not in holdings.directories
        ]

    def _unused_adapters(self, holdings: Holdings) -> list[Path]:
        """Adapters of no model that were removed, or are being added, longer ago than that."""
        before_s = self._clock() - ADAPTER_UNUSED_AFTER_S
        return [
            directory
            for digest, changed_s, directory in adapter_directories(self._blobs)
            if digest not in holdings.adapters and changed_s < before_s
        ]

    def _needs(self, holdings: Holdings) -> Needs:
        complete: set[str] = set()
        unfinished: dict[str, frozenset[str]] = {}
        for version in holdings.versions:
            files = holdings.stored_files_of(version)
            keys = {file.key for file in files}
            oids = {file.git_oid for file in files if not file.sha256}
            keys |= {self._blobs.known_as(oid) for oid in oids}
            if version.state in ON_DISK:
                complete |= keys
            else:
                unfinished[version.label] = frozenset(keys)
        running = {v.label for v in holdings.versions if v.state is State.PULLING}
        return Needs(frozenset(complete), unfinished, frozenset(running))

    def _is_locked(self, key: str) -> bool:
        """Whether some call downloads the content now."""
        lock = self._blobs.lock(key)
        if not lock.path.exists():
            return False
        if not lock.try_acquire():
            return True
        lock.release()
        return False

    def _remove(self, removal: Removal) -> None:
        for directory in removal.directories:
            self._blobs.remove_directory(directory)
        for file in removal.files:
            file.path.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Removes what has no bytes to speak of: leftovers of ended processes, and locks."""
        self._blobs.clean_staging()
        root = self._blobs.root
        for path in (root / "git").glob("*"):
            if not self._blobs.blob(path.read_text(encoding="ascii")).exists():
                path.unlink(missing_ok=True)
        self._blobs.remove_unused_locks()
