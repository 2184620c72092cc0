"""Imports a GGUF file of this host into the catalogue."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

from mlxmesh_model.artifacts.gguf_process import Converter, convert_gguf
from mlxmesh_model.artifacts.progress import Progress, Step, failure_of, report
from mlxmesh_model.artifacts.stored_directory import (
    IMPORTED,
    StoredDirectory,
    store_directory,
    validated,
)
from mlxmesh_model.catalogue.models import Source, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.errors import InvalidArgument


class Imports:
    """Converts into the store, and makes directories in a folder that only this class writes to."""

    def __init__(
        self, *, store: Store, blobs: BlobStore, convert: Converter = convert_gguf
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._convert = convert
        # The disk is the bottleneck: concurrent conversions would not be faster.
        self._converting = asyncio.Lock()

    async def recover(self) -> None:
        """Removes the files of imports that were interrupted when their process ended."""
        await asyncio.to_thread(self._blobs.clean_staging)
        known = {
            Path(version.artifact.directory)
            for model in await self._store.models()
            for version in model.versions
            if version.artifact
        }
        for directory in (self._blobs.models_dir / IMPORTED).glob("*/*"):
            if directory.resolve() not in known:
                await asyncio.to_thread(self._remove_abandoned, directory)

    def _remove_abandoned(self, directory: Path) -> None:
        lock = self._blobs.lock(f"staging-{directory.stem}")
        if lock.try_acquire():
            self._blobs.remove_directory(directory)
            lock.release()

    async def import_file(
        self, name: str, file: Path, dtype: str, kind: str = ""
    ) -> AsyncGenerator[Step]:
        """Converts and registers; yields at most ten times a second. Closing it early leaves no
        files.

        Raises: InvalidArgument, NameInUse, DiskFull, ServiceUnavailable.
        """
        if not file.is_absolute():
            raise InvalidArgument("file must be absolute", field="file")
        if not file.is_file():
            raise InvalidArgument(
                f"{file} is not a regular file on the model service's host", field="file"
            )
        await self._store.check_name(name)  # before the conversion, which takes long
        progress = Progress()
        source = Source(file=str(file), dtype=dtype, kind=kind)
        steps = report(name, self._fill(name, source, progress), progress)
        async with aclosing(steps):
            async for step in steps:
                yield step

    async def _fill(self, name: str, source: Source, progress: Progress) -> Version:
        identity = uuid4().hex[:12]
        directory = self._blobs.models_dir.resolve() / IMPORTED / name / identity
        try:
            # The lock of the staged directory also protects the one in its place, which is in no
            # version yet.
            async with self._blobs.staged(identity) as staged:
                async with self._converting:
                    await self._convert(Path(source.file), staged, source.dtype, progress)
                stored = await asyncio.to_thread(validated, staged, directory, source.kind)
                # From here on it completes even if its caller is cancelled, so that the directory
                # is either registered or removed.
                keeping = self._store.transactions.run_to_completion(
                    self._keep(name, staged, stored, source)
                )
                try:
                    return await asyncio.shield(keeping)
                finally:
                    await asyncio.wait({keeping})
        except OSError as error:
            raise failure_of(error, self._blobs.models_dir) from error

    async def _keep(
        self, name: str, staged: Path, stored: StoredDirectory, source: Source
    ) -> Version:
        await asyncio.to_thread(store_directory, self._blobs, staged, stored)
        return await self._register(name, stored, source)

    async def _register(self, name: str, stored: StoredDirectory, source: Source) -> Version:
        """The version, which may already exist with the same content in another directory."""
        kept = stored.directory
        try:
            model, number = await self._store.register(name, stored.artifact, source, stored.files)
            version = model.version(number)
            kept = Path(version.artifact.directory) if version.artifact else kept
            return version
        except BaseException:
            kept = Path()
            raise
        finally:
            if kept != stored.directory:
                await asyncio.to_thread(self._blobs.remove_directory, stored.directory)
