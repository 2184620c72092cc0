"""Pulls a model from a hub into the catalogue."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path

from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.artifacts.gguf_process import Converter, convert_gguf
from mlxmesh_model.artifacts.hub import Hub, HubModel
from mlxmesh_model.artifacts.progress import Progress, Step, failure_of, interrupted, report
from mlxmesh_model.catalogue.lifecycle import ON_DISK, State
from mlxmesh_model.catalogue.models import Artifact, FailureRecord, Source, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.errors import InvalidArgument, MeshError


class Pulls:
    """Downloads models from the hub into `models_dir`, which only this service writes to."""

    def __init__(
        self, *, store: Store, hub: Hub, models_dir: Path, convert: Converter = convert_gguf
    ) -> None:
        self._store = store
        self._hub = hub
        self._convert = convert
        self._models_dir = models_dir
        self._active: set[str] = set()

    async def recover(self) -> None:
        """Marks pulls that were interrupted when their process ended; another pull continues."""
        for model in await self._store.models():
            for version in model.versions:
                if version.state is State.PULLING and version.label not in self._active:
                    await self._store.fail_pull(version, FailureRecord.of(interrupted()))

    async def pull(
        self, repo_id: str, revision: str, name: str, *, file: str = "", dtype: str = ""
    ) -> AsyncGenerator[Step]:
        """Downloads, verifies and registers; yields at most ten times a second. Closing it early
        keeps the downloaded bytes. A GGUF file is converted, to this dtype if one is given.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument, IllegalState.
        """
        found = await self._hub.find(repo_id, revision, file)
        source = Source(
            repo_id=repo_id, revision=revision, commit=found.commit, file=file, dtype=dtype
        )
        version = await self._begin(name, source)
        if version.state in ON_DISK:
            complete = Progress(found.total_bytes, found.total_bytes)
            yield Step(name, complete, version)
            return
        progress = Progress()
        self._active.add(version.label)
        steps = report(name, self._fill(version, found, progress), progress)
        try:
            async with aclosing(steps):
                async for step in steps:
                    yield step
        finally:
            self._active.discard(version.label)

    async def _begin(self, name: str, source: Source) -> Version:
        """The version to fill; a cancelled call does not leave it PULLING."""
        beginning = asyncio.create_task(self._store.begin_pull(name, source))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            with suppress(MeshError):
                version = await beginning
                if version.state is State.PULLING:
                    await self._store.fail_pull(version, FailureRecord.of(interrupted()))
            raise

    async def _fill(self, version: Version, found: HubModel, progress: Progress) -> Version:
        """The version once it is on disk; a failure is stored with the version."""
        try:
            directory = self._directory(version)
            if version.source.file:
                artifact = await self._download_and_convert(version, found, directory, progress)
            else:
                await self._hub.download(found, directory, progress)
                artifact = await asyncio.to_thread(
                    inspect, directory, field="repo_id", known_sha256=found.sha256_by_name
                )
            filled = await self._store.finish_pull(version, artifact)
            await asyncio.to_thread(shutil.rmtree, _download_of(directory), ignore_errors=True)
            return filled
        except BaseException as error:  # after any error the version must not stay PULLING
            failure = failure_of(error, self._models_dir)
            await self._store.fail_pull(version, FailureRecord.of(failure))
            if isinstance(error, OSError):
                raise failure from error
            raise

    async def _download_and_convert(
        self, version: Version, found: HubModel, directory: Path, progress: Progress
    ) -> Artifact:
        """Downloads a GGUF file beside the directory and converts it into the directory."""
        source, download = version.source, _download_of(directory)
        await self._hub.download(found, download, progress)
        try:
            await self._convert(download / source.file, directory, source.dtype, progress)
        except InvalidArgument:  # a later pull cannot use the file
            await asyncio.to_thread(shutil.rmtree, download, ignore_errors=True)
            raise
        return await asyncio.to_thread(inspect, directory, field="file")

    async def remove_files(self, version: Version) -> None:
        """Removes the files of a pulled version; does nothing for any other version."""
        if version.source.repo_id:
            directory = self._directory(version)
            for path in (directory, _download_of(directory)):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    def _directory(self, version: Version) -> Path:
        """The directory of a version, which is always inside models_dir and never a link."""
        root = self._models_dir.resolve()
        directory = (root / version.model / str(version.number)).resolve()
        if directory != root / version.model / str(version.number):
            raise InvalidArgument(
                f"{directory} is a link; the directory of a pulled model must not be one",
                field="name",
            )
        return directory


def _download_of(directory: Path) -> Path:
    """Where the GGUF file is stored until the converted model is registered."""
    return directory.with_name(f"{directory.name}.gguf")
