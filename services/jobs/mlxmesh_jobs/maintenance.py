"""What has to be done as time passes: delays, deadlines, retention, and looks at the queues."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from mlxmesh_jobs import queues
from mlxmesh_jobs.clock import Clock, Monotonic
from mlxmesh_jobs.domain.ports import FileStore, JobStore
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.workers.workers import Workers
from mlxmesh_shared.errors import MeshError

PROMOTE_INTERVAL_S = 0.2
"""Between looks for due jobs, at least: every change may have delayed one."""
MAX_SLEEP_S = 60.0
EXPIRE_INTERVAL_S = 1.0
QUEUES_INTERVAL_S = 5.0
PRUNE_INTERVAL_S = 600.0
_PRUNE_PAUSE_S = 0.05
_RETRY_S = 1.0
CLOCK_INTERVAL_S = 1.0
MAX_CLOCK_STEP_S = 2.0
"""A wall clock that differs by more from the monotonic one was set."""
_log = logging.getLogger("mlxmesh.jobs")


class ClockWatch:
    """Notices that the wall clock was set. Pure: the times are given."""

    def __init__(self, wall_ms: int, monotonic_s: float) -> None:
        self._offset_s = wall_ms / 1000 - monotonic_s

    def step_s(self, wall_ms: int, monotonic_s: float) -> float:
        """By how much it was set since the last time; 0 if it was not."""
        offset_s = wall_ms / 1000 - monotonic_s
        step_s, self._offset_s = offset_s - self._offset_s, offset_s
        return step_s if abs(step_s) > MAX_CLOCK_STEP_S else 0.0


class Maintenance:
    """Loops of one process; several processes may run them on one database."""

    def __init__(
        self,
        store: JobStore,
        files: FileStore | None,
        workers: Workers,
        observer: JobObserver,
        *,
        clock: Clock,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._store = store
        self._files = files
        self._workers = workers
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._clock_was_set = asyncio.Event()

    async def run(self) -> None:
        """Maintains until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._promote())
            tasks.create_task(_repeat(self._expire, EXPIRE_INTERVAL_S))
            tasks.create_task(_repeat(self._prune, PRUNE_INTERVAL_S))
            tasks.create_task(_repeat(self._look, QUEUES_INTERVAL_S))
            tasks.create_task(self._watch_clock())

    async def _promote(self) -> None:
        """Lets delayed jobs wait once they are due."""
        with self._store.subscribe() as changed:
            while True:
                changed.clear()
                self._clock_was_set.clear()
                try:
                    due_s = await self._store.promote()
                except MeshError as error:
                    _log.warning("delayed jobs could not be looked at: %s", error.message)
                    due_s = _RETRY_S
                except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
                    _log.exception("delayed jobs could not be looked at")
                    due_s = _RETRY_S
                await asyncio.sleep(PROMOTE_INTERVAL_S)
                left_s = MAX_SLEEP_S if due_s is None else max(0, due_s - PROMOTE_INTERVAL_S)
                await _first(changed, self._clock_was_set, timeout_s=min(left_s, MAX_SLEEP_S))

    async def _expire(self) -> None:
        """Fails jobs whose deadline has passed."""
        while ended := await self._store.expire():
            self._workers.fence(ended)
            self._observer.ended(ended)

    async def _prune(self) -> None:
        """Removes what was kept long enough, some at a time."""
        while await self._store.prune():  # noqa: ASYNC110  it leaves room for others' changes
            await asyncio.sleep(_PRUNE_PAUSE_S)
        while self._files is not None and await self._files.prune():  # noqa: ASYNC110  likewise
            await asyncio.sleep(_PRUNE_PAUSE_S)

    async def _look(self) -> None:
        """Notes how the queues are."""
        counts = await self._store.queues()
        shown = queues.shown(counts, self._workers.facts())
        self._observer.queues_seen(counts, {each.counts.name: each.blocked for each in shown})

    async def _watch_clock(self) -> None:
        watch = ClockWatch(self._clock(), self._monotonic())
        while True:
            await asyncio.sleep(CLOCK_INTERVAL_S)
            step_s = watch.step_s(self._clock(), self._monotonic())
            if step_s:
                _log.warning(
                    "the clock was set by %+.0f s: deadlines and delays follow the new time; leases"
                    " do not depend on it",
                    step_s,
                )
                self._clock_was_set.set()


async def _repeat(work: Callable[[], Awaitable[None]], interval_s: float) -> None:
    """Does the work now and then; what fails is tried again later."""
    while True:
        try:
            await work()
        except MeshError as error:
            _log.warning("maintenance failed; trying again: %s", error.message)
        except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
            _log.exception("maintenance failed; trying again")
        await asyncio.sleep(interval_s)


async def _first(*events: asyncio.Event, timeout_s: float) -> None:
    """Until one of the events is set, or the time has passed."""
    waiting = [asyncio.create_task(each.wait()) for each in events]
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
