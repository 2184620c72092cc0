"""Importing a GGUF file of this host into the catalogue."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from uuid import uuid4

from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.artifacts.gguf_process import Converter, convert_gguf
from mlxmesh_model.artifacts.hub import Progress
from mlxmesh_model.artifacts.pulls import PullProgress, progress_of, why_failed
from mlxmesh_model.catalogue.models import Artifact, Source, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.errors import InvalidArgument

# No model's name begins so: pulled models are kept beside it.
_FOLDER = "_imported"


class Imports:
    """Converts into a folder of `models_dir`, which nobody else writes to."""

    def __init__(
        self, *, store: Store, models_dir: Path, convert: Converter = convert_gguf
    ) -> None:
        self._store = store
        self._root = models_dir / _FOLDER
        self._convert = convert
        self._own: set[Path] = set()
        # Each reads and writes as fast as the disk can: one after another is as fast as together.
        self._turn = asyncio.Lock()

    async def recover(self) -> None:
        """Removes what was left by an import that ended with its process."""
        known = {
            Path(version.artifact.directory)
            for model in await self._store.models()
            for version in model.versions
            if version.artifact
        }
        for directory in self._root.glob("*/*"):
            if directory.resolve() not in known and directory.with_suffix("") not in self._own:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def run(self, name: str, file: Path, dtype: str) -> AsyncGenerator[PullProgress]:
        """Converts and registers; yields at most ten times a second. Ended early, it leaves
        nothing.

        Raises: InvalidArgument, DiskFull, ServiceUnavailable.
        """
        if not file.is_absolute():
            raise InvalidArgument("file must be absolute", field="file")
        if not file.is_file():
            raise InvalidArgument(
                f"{file} is not a regular file on the model service's host", field="file"
            )
        progress = Progress()
        directory = self._root.resolve() / name / uuid4().hex[:12]
        self._own.add(directory)
        task = asyncio.create_task(
            self._fill(name, Source(file=str(file), dtype=dtype), directory, progress)
        )
        try:
            async for step in progress_of(task, progress):
                yield PullProgress(name, step)
            yield PullProgress(name, progress, task.result())
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._own.discard(directory)

    async def _fill(
        self, name: str, source: Source, directory: Path, progress: Progress
    ) -> Version:
        try:
            async with self._turn:
                await self._convert(Path(source.file), directory, source.dtype, progress)
            artifact = await asyncio.to_thread(inspect, directory, field="file")
        except BaseException as error:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            if isinstance(error, OSError):
                raise why_failed(error, self._root.parent) from error
            raise
        # From here on it goes to its end, whoever waits: a directory is known, or it is removed.
        return await asyncio.shield(
            self._store.transactions.keep(self._register(name, artifact, source))
        )

    async def _register(self, name: str, artifact: Artifact, source: Source) -> Version:
        """The version, which may be there already, with the same content in another directory."""
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
        """Removes what was imported as a version, and nothing that was made otherwise."""
        source, artifact = version.source, version.artifact
        if not source.file or source.repo_id or artifact is None:
            return
        directory = Path(artifact.directory)
        if directory.parent.parent == self._root.resolve():
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
