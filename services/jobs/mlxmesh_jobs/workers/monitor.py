"""Records heartbeats, ends the sessions of lost workers, and stops attempts that take too long."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from mlxmesh_jobs.clock import Monotonic
from mlxmesh_jobs.domain.jobs import AttemptId
from mlxmesh_jobs.domain.ports import JobStore
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.workers.attempts import Cause, failed, to_facts
from mlxmesh_jobs.workers.batch_session import BatchSession
from mlxmesh_jobs.workers.leases import Leases, Lost
from mlxmesh_jobs.workers.workers import Workers
from mlxmesh_shared.errors import MeshError, WorkerLost
from mlxmesh_shared.registry import Instance, Registry, follow_service

WATCHED = ("worker", "jobs")
"""The services whose processes have sessions."""
CANCEL_INTERVAL_S = 0.05
"""Between looks for cancelled jobs, of which every change may be one."""
_log = logging.getLogger("mlxmesh.jobs")


Reopen = Callable[[], Awaitable[int]]
"""Opens a session of this process, and returns its key."""


class Monitor:
    """Looks after all sessions, at each tick and when a stream or an instance has gone."""

    def __init__(
        self,
        store: JobStore,
        workers: Workers,
        leases: Leases,
        observer: JobObserver,
        *,
        batches: BatchSession | None,
        reopen: Reopen | None = None,
        clock: Monotonic,
    ) -> None:
        """batches: the session of this process; `reopen` opens another one when it was ended."""
        self._store = store
        self._workers = workers
        self._leases = leases
        self._observer = observer
        self._batches = batches
        self._reopen = reopen
        self._clock = clock
        self._woken = asyncio.Event()
        self._listed: dict[str, frozenset[str]] = {}
        self._beaten_s = float("-inf")

    def wake(self) -> None:
        """A session may be lost."""
        self._woken.set()

    async def run(self) -> None:
        """Monitors until it is cancelled."""
        while True:
            self._woken.clear()
            try:
                await self._tick()
            except MeshError as error:
                _log.warning("sessions could not be checked; trying again: %s", error.message)
            except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
                _log.exception("sessions could not be checked; trying again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._leases.tick_s):
                    await self._woken.wait()

    async def follow(self, registry: Registry, service: str) -> None:
        """Learns from the registry which processes are there, until it is cancelled."""

        async def update(instances: Sequence[Instance]) -> None:
            self._listed[service] = frozenset(each.instance_id for each in instances)
            if len(self._listed) == len(WATCHED):
                self._leases.list(frozenset[str]().union(*self._listed.values()))
                self.wake()

        await follow_service(registry, service, update)

    async def follow_cancellations(self) -> None:
        """Tells workers of jobs that were cancelled, at whichever service, until cancelled."""
        with self._store.subscribe() as changed:
            while True:
                changed.clear()
                try:
                    await self._cancel()
                except MeshError as error:
                    _log.warning("cancellations could not be read: %s", error.message)
                except Exception:  # noqa: BLE001 - one failed pass must not end all later ones
                    _log.exception("cancellations could not be read")
                await asyncio.sleep(CANCEL_INTERVAL_S)
                await changed.wait()

    async def _cancel(self) -> None:
        cancelling = await self._store.cancelling()
        if cancelling:
            self._workers.cancel(cancelling)
            if self._batches is not None:
                self._batches.cancel(cancelling)

    async def _tick(self) -> None:
        now_s = self._clock()
        self._leases.tick(now_s)
        if now_s - self._beaten_s >= self._leases.tick_s / 2:
            await self._beat()
            self._beaten_s = now_s
        stored = await self._store.sessions()
        self._workers.observe(stored)
        self._leases.observe(stored, self._clock())
        for connection in self._workers:
            if connection.waits_for_room:
                self._leases.heard(connection.key, self._clock())
        for lost in self._leases.lost(self._clock()):
            await self._end(lost)
        await self._stop_overdue()

    async def _beat(self) -> None:
        received = [
            (connection, connection.received)
            for connection in self._workers
            if not connection.has_unstored
        ]
        beating = self._leases.beating()
        own = [self._batches.key] if self._batches and not self._batches.closed else []
        if not beating and not own:
            return
        ended = await self._store.beat([*beating, *own])
        self._leases.beaten(beating)
        for key in ended:
            if key in own:
                await self._reopen_own()
            else:
                self._workers.ended(key, "another jobs service ended its session")
        for connection, number in received:
            if connection.key not in ended:
                connection.confirm(number)

    async def _reopen_own(self) -> None:
        """This process was thought lost: it was paused for longer than a lease."""
        if self._reopen is not None and self._batches is not None:
            _log.warning("this jobs service was paused; its batches run elsewhere")
            self._batches.reopen(await self._reopen())

    async def _end(self, lost: Lost) -> None:
        error = WorkerLost(f"the worker {lost.worker_id} was lost: {lost.reason}")
        ended = await self._store.end_session(
            lost.key, beat=lost.beat, fault=Fault.WORKER_LOST, failure=to_facts(error)
        )
        if lost.beat is not None and any(
            each.key == lost.key for each in await self._store.sessions()
        ):
            return  # it has a stream to another jobs service
        self._workers.ended(lost.key, lost.reason)
        self._observer.worker_lost(lost.worker_id, lost.reason, len(ended))
        self._observer.ended(ended)

    async def _stop_overdue(self) -> None:
        """Ends attempts that workers do not stop."""
        by_cause: defaultdict[Cause, list[AttemptId]] = defaultdict(list)
        for connection in self._workers:
            for attempt, cause in connection.stop_overdue():
                by_cause[cause].append(attempt)
        for cause, attempts in by_cause.items():
            end = failed(cause)
            ended = await self._store.stop_attempts(attempts, fault=end.fault, failure=end.failure)
            for connection in self._workers:
                connection.fence([each for each in attempts if each in connection.attempts])
            self._observer.ended(ended)
