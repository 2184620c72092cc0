"""Runs downloads in the leading model service; the rows in the database say which."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.catalogue.lifecycle import ON_DISK
from mlxmesh_model.catalogue.models import Source
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.hub.attempts import Attempts
from mlxmesh_model.hub.download import ACTIVE, Download, State
from mlxmesh_model.hub.store import DownloadStore
from mlxmesh_shared.errors import MeshError, ModelNotFound
from mlxmesh_shared.reference import ModelReference

_log = logging.getLogger("mlxmesh.model")

MAX_RUNNING = 2
_PRUNE_INTERVAL_S = 3600.0
_RETRY_S = 1.0


class DownloadRunner:
    """At most two downloads run at once, the oldest first; the others wait."""

    def __init__(
        self,
        *,
        downloads: DownloadStore,
        attempts: Attempts,
        catalogue: Store,
        pruning: Pruning,
        max_running: int = MAX_RUNNING,
    ) -> None:
        self._downloads = downloads
        self._attempts = attempts
        self._catalogue = catalogue
        self._pruning = pruning
        self._max_running = max_running
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pruned_s: float | None = None

    async def run(self) -> None:
        """Runs until cancelled; what runs then is continued by the next leader."""
        with self._downloads.subscribe() as changed:
            try:
                while True:
                    changed.clear()
                    wait_s = await self._passed(changed)
                    # Not wait_for: in Python 3.11 it may lose a cancellation at the event.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await changed.wait()
            finally:
                await self._stop(list(self._tasks))

    async def _passed(self, changed: asyncio.Event) -> float:
        """Brings tasks and rows together; returns after how long to look again."""
        try:
            await self._reconcile(changed)
            await self._prune()
        except MeshError as error:
            _log.warning("downloads are not continued (%s); retrying soon", error.message)
            return _RETRY_S
        return _PRUNE_INTERVAL_S

    async def _prune(self) -> None:
        """Now and then: progress wakes this loop twice a second."""
        now_s = time.monotonic()
        if self._pruned_s is None or now_s - self._pruned_s >= _PRUNE_INTERVAL_S:
            await self._downloads.prune()
            self._pruned_s = now_s

    async def _reconcile(self, changed: asyncio.Event) -> None:
        known = {each.download_id: each for each in await self._downloads.all()}
        await self._stop([one for one in self._tasks if not _is_active(known, one)])
        for download in known.values():
            if download.state is State.DELETING:
                await self._remove(download)
        waiting = [each for each in reversed(known.values()) if each.state in ACTIVE]
        for download in waiting:
            if len(self._tasks) < self._max_running and download.download_id not in self._tasks:
                self._begin(download, changed)

    def _begin(self, download: Download, changed: asyncio.Event) -> None:
        task = asyncio.create_task(self._attempts.run(download))
        self._tasks[download.download_id] = task

        def ended(_: asyncio.Task[None]) -> None:
            if self._tasks.get(download.download_id) is task:
                del self._tasks[download.download_id]
            changed.set()

        task.add_done_callback(ended)

    async def _stop(self, download_ids: list[str]) -> None:
        """Cancels attempts and waits until their files are closed, also when it is cancelled
        itself: a second cancellation would end them before that.
        """
        tasks = [self._tasks.pop(one) for one in download_ids if one in self._tasks]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        ending = asyncio.create_task(asyncio.wait(tasks))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending
            raise

    async def _remove(self, download: Download) -> None:
        """Removes a download with what it has on disk, unless a version is complete with it."""
        if not download.version:
            await self._remove_files(download)
        await self._downloads.remove(download.download_id)

    async def _remove_files(self, download: Download) -> None:
        name, source = download.wanted.name, download.wanted.source
        try:
            model = await self._catalogue.model(name)
        except ModelNotFound:
            return
        for version in model.versions:
            started = version.state not in ON_DISK and version.artifact is None
            if started and _same_source(version.source, source):
                try:
                    removed = await self._catalogue.delete(
                        ModelReference(name, version=version.number)
                    )
                except MeshError as error:  # another call pulls the same
                    _log.warning("%s is kept: %s", version.label, error.message)
                    continue
                await self._pruning.release(removed)


def _is_active(known: Mapping[str, Download], download_id: str) -> bool:
    download = known.get(download_id)
    return download is not None and download.state in ACTIVE


def _same_source(one: Source, other: Source) -> bool:
    return one.is_like(other) and one.revision == other.revision
