"""Pulling a model from a hub into the catalogue."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.artifacts.gguf_process import Converter, convert_gguf
from mlxmesh_model.artifacts.hub import Hub, HubModel, Progress
from mlxmesh_model.catalogue.lifecycle import ON_DISK, State
from mlxmesh_model.catalogue.models import Artifact, FailureRecord, Source, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.errors import (
    Cancelled,
    Internal,
    InvalidArgument,
    MeshError,
    ServiceUnavailable,
)
from mlxmesh_shared.host.disk import disk_error

_PROGRESS_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull or an import is; `version` is set at its end."""

    name: str
    progress: Progress
    version: Version | None = None


class Pulls:
    """Brings models from the hub into `models_dir`, which nobody else writes to."""

    def __init__(
        self, *, store: Store, hub: Hub, models_dir: Path, convert: Converter = convert_gguf
    ) -> None:
        self._store = store
        self._hub = hub
        self._convert = convert
        self._models_dir = models_dir
        self._own: set[str] = set()

    async def recover(self) -> None:
        """Marks the pulls that ended with another process; they can be pulled on."""
        for model in await self._store.models():
            for version in model.versions:
                if version.state is State.PULLING and version.label not in self._own:
                    await self._store.fail_pull(version, FailureRecord.of(_interrupted()))

    async def pull(
        self, repo_id: str, revision: str, name: str, *, file: str = "", dtype: str = ""
    ) -> AsyncGenerator[PullProgress]:
        """Downloads, verifies and registers; yields at most ten times a second. Ended early, it
        keeps what it has. A GGUF file is converted, into this dtype where one is named.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument, IllegalState.
        """
        found = await self._hub.find(repo_id, revision, file)
        source = Source(
            repo_id=repo_id, revision=revision, commit=found.commit, file=file, dtype=dtype
        )
        version = await self._begin(name, source)
        if version.state in ON_DISK:
            complete = Progress(found.total_bytes, found.total_bytes)
            yield PullProgress(name, complete, version)
            return
        progress = Progress()
        self._own.add(version.label)
        task = asyncio.create_task(self._fill(version, found, progress))
        try:
            async for step in progress_of(task, progress):
                yield PullProgress(name, step)
            yield PullProgress(name, progress, task.result())
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._own.discard(version.label)

    async def _begin(self, name: str, source: Source) -> Version:
        """The version to fill; when cancelled meanwhile, it is not left PULLING."""
        beginning = asyncio.create_task(self._store.begin_pull(name, source))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            with suppress(MeshError):
                version = await beginning
                if version.state is State.PULLING:
                    await self._store.fail_pull(version, FailureRecord.of(_interrupted()))
            raise

    async def _fill(self, version: Version, found: HubModel, progress: Progress) -> Version:
        """The version, on disk; whatever prevents that is kept with it."""
        try:
            directory = self._directory(version)
            if version.source.file:
                artifact = await self._converted(version, found, directory, progress)
            else:
                await self._hub.download(found, directory, progress)
                artifact = await asyncio.to_thread(
                    inspect, directory, field="repo_id", known_sha256=found.sha256_by_name
                )
            filled = await self._store.finish_pull(version, artifact)
            await asyncio.to_thread(shutil.rmtree, _download_of(directory), ignore_errors=True)
            return filled
        except BaseException as error:  # whatever it was, the version must not stay PULLING
            failure = why_failed(error, self._models_dir)
            await self._store.fail_pull(version, FailureRecord.of(failure))
            if isinstance(error, OSError):
                raise failure from error
            raise

    async def _converted(
        self, version: Version, found: HubModel, directory: Path, progress: Progress
    ) -> Artifact:
        """A GGUF file, downloaded beside the directory, then converted into it."""
        source, download = version.source, _download_of(directory)
        await self._hub.download(found, download, progress)
        try:
            await self._convert(download / source.file, directory, source.dtype, progress)
        except InvalidArgument:  # no later pull can use it
            await asyncio.to_thread(shutil.rmtree, download, ignore_errors=True)
            raise
        return await asyncio.to_thread(inspect, directory, field="file")

    async def remove_files(self, version: Version) -> None:
        """Removes what was pulled for a version; a registered directory is left alone."""
        if version.source.repo_id:
            directory = self._directory(version)
            for path in (directory, _download_of(directory)):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    def _directory(self, version: Version) -> Path:
        """Where a version is kept; never outside models_dir, whatever its name or links there."""
        root = self._models_dir.resolve()
        directory = (root / version.model / str(version.number)).resolve()
        if directory != root / version.model / str(version.number):
            raise InvalidArgument(f"{directory} is a link; pulled models are not", field="name")
        return directory


def _download_of(directory: Path) -> Path:
    """Where the GGUF file is until the model that it becomes is registered."""
    return directory.with_name(f"{directory.name}.gguf")


async def progress_of(task: asyncio.Task[Version], progress: Progress) -> AsyncGenerator[Progress]:
    """The progress each time that it has changed, until the task is done."""
    last: Progress | None = None
    while not task.done():
        if progress.total_bytes and progress != last:
            last = replace(progress)
            yield last
        await asyncio.wait({task}, timeout=_PROGRESS_INTERVAL_S)


def why_failed(error: BaseException, models_dir: Path) -> MeshError:
    """What is told of whatever ended a pull or an import into a directory."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return _interrupted()
    if isinstance(error, OSError):
        return disk_error(error, models_dir) or ServiceUnavailable(
            f"the model cannot be written ({error.strerror}); check the disk under {models_dir},"
            " then try again"
        )
    return Internal("the pull failed; see the log of the model service")


def _interrupted() -> MeshError:
    return Cancelled("the pull was interrupted; pull again to go on")
