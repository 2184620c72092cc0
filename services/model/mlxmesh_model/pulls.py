"""Pulling a model from a hub into the catalogue."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlxmesh_model.artifacts import inspect
from mlxmesh_model.catalog import FailureRecord, Source, Version
from mlxmesh_model.hub import Hub, HubModel, Progress
from mlxmesh_model.lifecycle import ON_DISK, State
from mlxmesh_model.store import Store
from mlxmesh_shared.disk import disk_error
from mlxmesh_shared.errors import (
    Cancelled,
    Internal,
    InvalidArgument,
    MeshError,
    ServiceUnavailable,
)

_PROGRESS_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is; `version` is set at its end."""

    name: str
    progress: Progress
    version: Version | None = None


class Pulls:
    """Brings models from the hub into `models_dir`, which nobody else writes to."""

    def __init__(self, *, store: Store, hub: Hub, models_dir: Path) -> None:
        self._store = store
        self._hub = hub
        self._models_dir = models_dir
        self._own: set[str] = set()

    async def recover(self) -> None:
        """Marks the pulls that ended with another process; they can be pulled on."""
        for model in await self._store.models():
            for version in model.versions:
                if version.state is State.PULLING and version.label not in self._own:
                    await self._store.fail_pull(version, FailureRecord.of(_interrupted()))

    async def pull(self, hub_id: str, revision: str, name: str) -> AsyncGenerator[PullProgress]:
        """Downloads, verifies and registers; yields at most ten times a second. Ended early, it
        keeps what it has.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument, IllegalState.
        """
        found = await self._hub.find(hub_id, revision)
        source = Source(hub_id=hub_id, revision=revision, commit=found.commit)
        version = await self._begin(name, source)
        if version.state in ON_DISK:
            complete = Progress(found.total_bytes, found.total_bytes)
            yield PullProgress(name, complete, version)
            return
        progress = Progress()
        self._own.add(version.label)
        task = asyncio.create_task(self._fill(version, found, progress))
        try:
            async for step in _steps(task, progress):
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
            await self._hub.download(found, directory, progress)
            artifact = await asyncio.to_thread(
                inspect, directory, field="hub_id", known_sha256=found.sha256_by_name
            )
            return await self._store.finish_pull(version, artifact)
        except BaseException as error:  # whatever it was, the version must not stay PULLING
            failure = _why(error)
            await self._store.fail_pull(version, FailureRecord.of(failure))
            if isinstance(error, OSError):
                raise failure from error
            raise

    async def remove_files(self, version: Version) -> None:
        """Removes what was pulled for a version; a registered directory is left alone."""
        if version.source.hub_id:
            await asyncio.to_thread(shutil.rmtree, self._directory(version), ignore_errors=True)

    def _directory(self, version: Version) -> Path:
        """Where a version is kept; never outside models_dir, whatever its name or links there."""
        root = self._models_dir.resolve()
        directory = (root / version.model / str(version.number)).resolve()
        if directory != root / version.model / str(version.number):
            raise InvalidArgument(f"{directory} is a link; pulled models are not", field="name")
        return directory


async def _steps(task: asyncio.Task[Version], progress: Progress) -> AsyncGenerator[Progress]:
    """The progress each time that it has changed, until the task is done."""
    last: Progress | None = None
    while not task.done():
        if progress.total_bytes and progress != last:
            last = replace(progress)
            yield last
        await asyncio.wait({task}, timeout=_PROGRESS_INTERVAL_S)


def _why(error: BaseException) -> MeshError:
    """What is told of whatever ended a pull."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return _interrupted()
    if isinstance(error, OSError):
        return disk_error(error) or ServiceUnavailable(
            f"the model cannot be written ({error.strerror}); make room, then pull again"
        )
    return Internal("the pull failed; see the log of the model service")


def _interrupted() -> MeshError:
    return Cancelled("the pull was interrupted; pull again to go on")
