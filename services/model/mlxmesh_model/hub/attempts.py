"""The attempts of one download, until it completes or fails for good."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from itertools import count

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from mlxmesh_model.artifacts.progress import Progress, Step
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.catalogue.lifecycle import State as VersionState
from mlxmesh_model.catalogue.models import FailureRecord, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.hub.download import Download
from mlxmesh_model.hub.speed import Speed
from mlxmesh_model.hub.store import DownloadStore
from mlxmesh_shared.errors import (
    DatabaseBusy,
    IllegalState,
    Internal,
    MeshError,
    ModelNotFound,
    ServiceUnavailable,
)

_log = logging.getLogger("mlxmesh.model")

MAX_ATTEMPTS = 10
"""In a row without a new byte; then the download fails, and somebody has to resume it."""
_MAX_PAUSE_S = 60.0
_PROGRESS_INTERVAL_S = 0.5
_READ_AGAIN_AFTER = 10
"""In so many intervals."""

OnComplete = Callable[[Version], Awaitable[None]]
"""Called with the version of a download that is to be loaded."""


class _Superseded(Exception):
    """Somebody paused or deleted the download, or another attempt has begun."""


class _Busy(Exception):
    """Another call pulls the same version."""

    def __init__(self, cause: IllegalState) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Attempts:
    """Pulls as PullModel does, and repeats that after faults that may pass."""

    def __init__(
        self,
        *,
        downloads: DownloadStore,
        pulls: Pulls,
        catalogue: Store,
        load: OnComplete,
        pause_s: float = 1.0,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._downloads = downloads
        self._pulls = pulls
        self._catalogue = catalogue
        self._load = load
        self._busy_pause_s = 2 * pause_s
        self._backoff = wait_random_exponential(multiplier=pause_s, max=_MAX_PAUSE_S)
        self._max_attempts = max_attempts

    def _pause(self, state: RetryCallState) -> float:
        busy = state.outcome is not None and isinstance(state.outcome.exception(), _Busy)
        return self._busy_pause_s if busy else self._backoff(state)

    async def run(self, download: Download) -> None:
        """Runs until the download has ended, or somebody paused or deleted it."""
        one = _One(self._downloads, self._pulls, self._catalogue, download)
        stop = _StopWithoutProgress(one, self._max_attempts)
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop,
            wait=self._pause,
            before_sleep=one.postpone,
            reraise=True,
        )
        try:
            version: Version = await retrying(one.attempt)
            await one.complete(version, self._load)
        except _Superseded:
            return
        except Exception as error:  # noqa: BLE001 - the row must not claim that it runs
            await one.fail(error)


class _One:
    """One download, as this process last stored it."""

    def __init__(
        self, downloads: DownloadStore, pulls: Pulls, catalogue: Store, download: Download
    ) -> None:
        self._downloads = downloads
        self._pulls = pulls
        self._catalogue = catalogue
        self._download = download
        self._progress = Progress()
        self.most_bytes = 0

    async def attempt(self) -> Version:
        """One attempt. Raises: MeshError, _Busy, _Superseded."""
        await self._advance(Download.started)
        wanted = self._download.wanted
        steps = self._pulls.pull(
            wanted.repo_id, wanted.revision, wanted.name, file=wanted.file, dtype=wanted.dtype
        )
        try:
            async with aclosing(steps):
                return await self._followed(steps)
        except IllegalState as error:
            if await self._is_pulled_by_another_call():
                raise _Busy(error) from error
            raise

    async def _followed(self, steps: AsyncGenerator[Step]) -> Version:
        """The version at the end. Raises: as the pull; _Superseded."""
        following = asyncio.create_task(self._follow(steps))
        storing = asyncio.create_task(self._store_progress())
        try:
            await asyncio.wait({following, storing}, return_when=asyncio.FIRST_COMPLETED)
            if storing.done():
                storing.result()
            version = await following
            await self._store(0.0, always=True)
            return version
        finally:
            for task in (following, storing):
                task.cancel()
            await asyncio.gather(following, storing, return_exceptions=True)

    async def _follow(self, steps: AsyncGenerator[Step]) -> Version:
        async for step in steps:
            self._progress = step.progress
            self.most_bytes = max(self.most_bytes, step.progress.done_bytes)
            if step.version is not None:
                return step.version
        raise Internal("the pull ended without a version")

    async def _store_progress(self) -> None:
        """Stores the progress twice a second while it changes; never ends by itself.

        A download without progress reads its row now and then: it may have been paused and resumed
        so soon that nobody stopped this attempt.
        """
        speed = Speed()
        for times in count(1):
            rate = speed.sample(time.monotonic(), self._progress.done_bytes)
            await self._store(rate, always=times % _READ_AGAIN_AFTER == 0)
            await asyncio.sleep(_PROGRESS_INTERVAL_S)

    async def _store(self, rate: float, *, always: bool = False) -> None:
        """Stores what has changed, or in any case, which also reads the row again."""
        progress = self._progress

        def changed(known: Download) -> Download:
            return known.progressed(
                done_bytes=progress.done_bytes,
                total_bytes=progress.total_bytes,
                file=progress.file,
                bytes_per_second=rate,
            )

        # Until the hub has answered, the row shows what was known before.
        change = changed if progress.total_bytes else _unchanged
        if always or change(self._download) != self._download:
            await self._advance(change)

    async def _is_pulled_by_another_call(self) -> bool:
        wanted = self._download.wanted
        try:
            model = await self._catalogue.model(wanted.name)
        except ModelNotFound:
            return False
        return any(
            version.state is VersionState.PULLING and version.source.is_like(wanted.source)
            for version in model.versions
        )

    async def postpone(self, state: RetryCallState) -> None:
        """Shows why the next attempt is waited for."""
        assert state.outcome is not None
        failure = _failure(state.outcome.exception())
        _log.info("%s waits: %s", self._download.download_id, failure.message)
        await self._advance(lambda each: each.postponed(failure))

    async def complete(self, version: Version, load: OnComplete) -> None:
        """Marks it as completed; loads the version first if that was asked for."""
        if self._download.load:
            try:
                await load(version)
            except MeshError as error:
                _log.warning("%s is not loaded: %s", version.label, error.message)
        await self._advance(lambda each: each.completed(version.number, self._downloads.clock()))

    async def fail(self, error: BaseException) -> None:
        """Marks it as failed."""
        failure = _failure(error)
        if not isinstance(error, MeshError | _Busy):
            _log.error("download %s failed", self._download.download_id, exc_info=error)
        try:
            await self._advance(lambda each: each.failed(failure))
        except _Superseded:
            return
        except MeshError as fault:  # the runner begins it again
            _log.warning("%s cannot be stored: %s", self._download.download_id, fault.message)
            await asyncio.sleep(1.0)

    async def _advance(self, changed: Callable[[Download], Download]) -> None:
        stored = await self._downloads.advance(self._download, changed)
        if stored is None:
            raise _Superseded
        self._download = stored


class _StopWithoutProgress:
    """Stops after so many attempts in a row that brought no byte."""

    def __init__(self, one: _One, most: int) -> None:
        self._one = one
        self._most = most
        self._known_bytes = 0
        self._last_gain = 0

    def __call__(self, state: RetryCallState) -> bool:
        if state.outcome is not None and isinstance(state.outcome.exception(), _Busy):
            self._last_gain = state.attempt_number  # however long the other call takes
        if self._one.most_bytes > self._known_bytes:
            self._known_bytes = self._one.most_bytes
            self._last_gain = state.attempt_number
        return state.attempt_number - self._last_gain >= self._most


def _unchanged(known: Download) -> Download:
    return known


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed; HubUnavailable is a ServiceUnavailable."""
    return isinstance(error, ServiceUnavailable | DatabaseBusy | _Busy)


def _failure(error: BaseException | None) -> FailureRecord:
    if isinstance(error, _Busy):
        return FailureRecord.of(error.cause)
    if isinstance(error, MeshError):
        return FailureRecord.of(error)
    return FailureRecord.of(Internal("the download failed; see the log of the model service"))
