"""Pulls a model from a hub into the catalogue."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

from mlxmesh_model.artifacts.downloads import Downloads
from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.artifacts.gguf_process import Converter, convert_gguf
from mlxmesh_model.artifacts.hub import Hub, HubModel
from mlxmesh_model.artifacts.progress import Progress, Step, failure_of, interrupted, report
from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.records import FileRecords
from mlxmesh_model.artifacts.stored_directory import (
    StoredDirectory,
    directory_of,
    store_directory,
    stored_files,
    validated,
)
from mlxmesh_model.catalogue.files import StoredFile
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import FailureRecord, Source, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobMissing, BlobStore
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import Internal, InvalidArgument, MeshError, ModelNotFound
from mlxmesh_shared.host.file_lock import FileLock

# A removal of unused files may take one that was present when the pull looked, but not twice.
_ATTEMPTS = 3


class Pulls:
    """Downloads models from the hub into the store, and makes their directories from it."""

    def __init__(
        self,
        *,
        store: Store,
        hub: Hub,
        blobs: BlobStore,
        pruning: Pruning,
        convert: Converter = convert_gguf,
    ) -> None:
        self._store = store
        self._records = FileRecords(store)
        self._hub = hub
        self._blobs = blobs
        self._downloads = Downloads(hub, blobs)
        self._pruning = pruning
        self._convert = convert
        self._beginning = asyncio.Lock()

    async def recover(self, *, alone: bool = True) -> None:
        """Marks pulls that were interrupted when their process ended; another pull continues.

        alone: whether there is no other service, which may pull into a store of its own.
        """
        for model in await self._store.models():
            for version in model.versions:
                await self._give_up_abandoned(version, alone=alone)

    async def pull(
        self,
        repo_id: str,
        revision: str,
        name: str,
        *,
        file: str = "",
        dtype: str = "",
        kind: str = "",
    ) -> AsyncGenerator[Step]:
        """Downloads, verifies and registers; yields at most ten times a second. Closing it early
        keeps the downloaded bytes. A GGUF file is converted, to this dtype if one is given. Without
        a kind its files decide.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument, IllegalState, DiskFull.
        """
        found = await self._hub.find(repo_id, revision, file)
        source = Source(
            repo_id=repo_id,
            revision=revision,
            commit=found.commit,
            file=file,
            dtype=dtype,
            kind=kind,
        )
        version, lock = await self._begin(name, source)
        if lock is None:
            complete = Progress(found.total_bytes, found.total_bytes)
            yield Step(name, complete, version)
            return
        progress = Progress()
        steps = report(name, self._fill(version, found, progress), progress)
        try:
            async with aclosing(steps):
                async for step in steps:
                    yield step
        finally:
            lock.release()

    async def _begin(self, name: str, source: Source) -> tuple[Version, FileLock | None]:
        """The version to fill and the lock that shows that this call fills it; no lock for one that
        is complete. A cancelled call does not leave it PULLING.
        """
        beginning = asyncio.create_task(self._begin_exclusively(name, source))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            with suppress(MeshError):
                version, lock = await beginning
                if lock is not None:
                    try:
                        await self._store.fail_pull(version, FailureRecord.of(interrupted()))
                    finally:
                        lock.release()
            raise

    async def _begin_exclusively(
        self, name: str, source: Source
    ) -> tuple[Version, FileLock | None]:
        async with self._beginning:
            with suppress(ModelNotFound):
                known = (await self._store.model(name)).pulled_from(source)
                if known is not None:
                    await self._give_up_abandoned(known)
            locks: list[FileLock] = []

            def claim(version: Version) -> None:
                """Before the version is PULLING for others, which mark it if nobody holds it."""
                locks.append(self._lock(version))
                locks[0].try_acquire()

            try:
                version = await self._store.begin_pull(name, source, claim)
            except BaseException:
                for lock in locks:
                    lock.release()
                raise
            for lock in locks:
                await lock.acquire()  # if the pull before this one was about to release it
            return version, locks[0] if locks else None

    async def _give_up_abandoned(self, version: Version, *, alone: bool = False) -> None:
        """Marks a pull whose process ended, or could not store its failure."""
        if version.state is not State.PULLING:
            return
        lock = self._lock(version)
        # Without the file of a lock it is a pull of a service with another store.
        if (alone or lock.path.exists()) and lock.try_acquire():
            try:
                with suppress(MeshError):  # its process marked it meanwhile
                    await self._store.fail_pull(version, FailureRecord.of(interrupted()))
            finally:
                lock.release()

    def _lock(self, version: Version) -> FileLock:
        return self._blobs.lock(version.label)

    async def _fill(self, version: Version, found: HubModel, progress: Progress) -> Version:
        """The version once it is on disk; a failure is stored with the version."""
        try:
            return await self._filled(version, found, progress)
        except BaseException as error:  # after any error the version must not stay PULLING
            failure = failure_of(error, self._blobs.models_dir)
            await self._store.fail_pull(version, FailureRecord.of(failure))
            if isinstance(error, OSError):
                raise failure from error
            raise

    async def _filled(self, version: Version, found: HubModel, progress: Progress) -> Version:
        directory = directory_of(self._blobs, version)
        directory.parent.mkdir(parents=True, exist_ok=True)
        await self._records.set_files(version, _announced(found))
        gguf = bool(version.source.file)
        await self._downloads.take_over(found, _gguf_of(directory) if gguf else directory)
        for _ in range(_ATTEMPTS):
            digests = await self._downloads.fetch(found, progress)
            try:
                fill = self._converted if gguf else self._linked
                filled = await fill(version, found, digests, directory, progress)
            except BlobMissing:
                continue
            return await self._finish(version, filled)
        raise Internal("files of the store are removed during the pull; see who removes them")

    async def _linked(
        self,
        version: Version,
        found: HubModel,
        digests: Mapping[str, str],
        directory: Path,
        progress: Progress,
    ) -> StoredDirectory:
        """The directory of an mlx-lm model, made of links."""
        async with self._blobs.staged() as staged:
            await in_thread(self._blobs.fill, staged, digests)
            artifact = await in_thread(
                inspect,
                staged,
                field="repo_id",
                known_sha256=digests,
                kind=version.source.kind,
            )
            await in_thread(self._blobs.publish, staged, directory)
        files = stored_files(directory, digests)
        return StoredDirectory(replace(artifact, directory=str(directory)), files)

    async def _converted(
        self,
        version: Version,
        found: HubModel,
        digests: Mapping[str, str],
        directory: Path,
        progress: Progress,
    ) -> StoredDirectory:
        """The directory of a GGUF file's conversion."""
        gguf = self._blobs.blob(digests[version.source.file])
        if not gguf.exists():
            raise BlobMissing(gguf.name)
        async with self._blobs.staged() as staged:
            try:
                await self._convert(gguf, staged, version.source.dtype, progress)
                stored = await asyncio.to_thread(validated, staged, directory, version.source.kind)
                await in_thread(store_directory, self._blobs, staged, stored)
                return stored
            except InvalidArgument:  # a later pull cannot use the file
                await self._records.set_files(version, ())
                await self._pruning.sweep()
                raise

    async def _finish(self, version: Version, filled: StoredDirectory) -> Version:
        done = await self._store.finish_pull(version, filled.artifact, filled.files)
        await in_thread(self._blobs.restore, filled.directory, filled.digests)
        if version.source.file:
            gguf = _gguf_of(filled.directory)
            await in_thread(self._blobs.remove_directory, gguf)
            await self._pruning.sweep()  # the GGUF file belongs to no version
        return done


def _announced(found: HubModel) -> list[StoredFile]:
    return [StoredFile(f.name, f.size_bytes, f.sha256, f.git_oid) for f in found.files]


def _gguf_of(directory: Path) -> Path:
    """Where earlier versions of this service stored a GGUF file until it was converted."""
    return directory.with_name(f"{directory.name}.gguf")
