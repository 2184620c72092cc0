"""Imports a GGUF file of this host into the catalogue."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.artifacts.gguf_process import Converter, convert_gguf
from mlxmesh_model.artifacts.progress import Progress, Step, failure_of, report
from mlxmesh_model.catalogue.models import Artifact, Source, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.errors import InvalidArgument

# No model name starts with an underscore: pulled models are stored beside this folder.
_FOLDER = "_imported"


class Imports:
    """Converts into a folder of `models_dir` that only this class writes to."""

    def __init__(
        self, *, store: Store, models_dir: Path, convert: Converter = convert_gguf
    ) -> None:
        self._store = store
        self._root = models_dir / _FOLDER
        self._convert = convert
        self._active: set[Path] = set()
        # The disk is the bottleneck: concurrent conversions would not be faster.
        self._converting = asyncio.Lock()

    async def recover(self) -> None:
        """Removes the files of imports that were interrupted when their process ended."""
        known = {
            Path(version.artifact.directory)
            for model in await self._store.models()
            for version in model.versions
            if version.artifact
        }
        for directory in self._root.glob("*/*"):
            if directory.resolve() not in known and directory.with_suffix("") not in self._active:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def import_file(self, name: str, file: Path, dtype: str) -> AsyncGenerator[Step]:
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
        directory = self._root.resolve() / name / uuid4().hex[:12]
        self._active.add(directory)
        source = Source(file=str(file), dtype=dtype)
        steps = report(name, self._fill(name, source, directory, progress), progress)
        try:
            async with aclosing(steps):
                async for step in steps:
                    yield step
        finally:
            self._active.discard(directory)

    async def _fill(
        self, name: str, source: Source, directory: Path, progress: Progress
    ) -> Version:
        try:
            async with self._converting:
                await self._convert(Path(source.file), directory, source.dtype, progress)
            artifact = await asyncio.to_thread(inspect, directory, field="file")
        except BaseException as error:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            if isinstance(error, OSError):
                raise failure_of(error, self._root.parent) from error
            raise
        # From here on it completes even if its caller is cancelled, so that the directory is either
        # registered or removed.
        return await asyncio.shield(
            self._store.transactions.run_to_completion(self._register(name, artifact, source))
        )

    async def _register(self, name: str, artifact: Artifact, source: Source) -> Version:
        """The version, which may already exist with the same content in another directory."""
        directory = Path(artifact.directory)
        kept = directory
        try:
            model, number = await self._store.register(name, artifact, source)
            version = model.version(number)
            kept = Path(version.artifact.directory) if version.artifact else directory
            return version
        except BaseException:
            kept = Path()
            raise
        finally:
            if kept != directory:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def remove_files(self, version: Version) -> None:
        """Removes the files of an imported version; does nothing for any other version."""
        source, artifact = version.source, version.artifact
        if not source.file or source.repo_id or artifact is None:
            return
        directory = Path(artifact.directory)
        if directory.parent.parent == self._root.resolve():
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
