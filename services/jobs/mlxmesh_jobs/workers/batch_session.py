"""The session in which a jobs service runs batches itself."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from mlxmesh_jobs.domain.jobs import (
    AttemptId,
    Capability,
    Claim,
    Completed,
    Failed,
    Kind,
    Stopped,
    Update,
)
from mlxmesh_jobs.domain.ports import BatchRunner, JobStore
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.workers.attempts import Cause, failed, to_facts
from mlxmesh_shared.errors import Internal, MeshError

MAX_BATCHES = 256
"""That one jobs service runs at once; a batch mostly waits for its requests."""
_RETRY_S = 0.5
_log = logging.getLogger("mlxmesh.jobs")
_CAPABILITY = Capability(kinds=frozenset({Kind.BATCH}))


class BatchSession:
    """Satisfies Taker with tasks of this process."""

    def __init__(
        self,
        store: JobStore,
        runner: BatchRunner,
        observer: JobObserver,
        *,
        max_batches: int = MAX_BATCHES,
    ) -> None:
        """Takes batches once it is opened."""
        self.key = 0
        self.wake: Callable[[], None] = lambda: None
        """Called when it may take more batches."""
        self._store = store
        self._runner = runner
        self._observer = observer
        self._max_batches = max_batches
        self._running: dict[AttemptId, asyncio.Task[None]] = {}
        self.closed = False

    def open(self, key: int) -> None:
        """The session begins."""
        self.key = key

    @property
    def free(self) -> int:
        return 0 if self.closed else self._max_batches - len(self._running)

    @property
    def held(self) -> int:
        return len(self._running)

    @property
    def capability(self) -> Capability:
        return _CAPABILITY

    def give(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            task = asyncio.create_task(self._run(claim), name=f"batch-{claim.id.job_id}")
            self._running[claim.id] = task

    def cancel(self, attempts: Sequence[AttemptId]) -> None:
        """Stops batches; others are ignored."""
        for attempt in attempts:
            task = self._running.get(attempt)
            if task is not None:
                task.cancel()

    def reopen(self, key: int) -> None:
        """Another session follows, since this one was ended: its batches run elsewhere."""
        for task in self._running.values():
            task.cancel()
        self._running = {}
        self.key = key
        self.wake()

    async def close(self) -> None:
        """Stops all batches, which run elsewhere then."""
        self.closed = True
        running = [*self._running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, claim: Claim) -> None:
        key = self.key
        news: Completed | Failed | Stopped
        try:
            async with asyncio.timeout(claim.timeout_ms / 1000 or None):
                news = await self._runner.run(claim)
        except TimeoutError:
            news = failed(Cause.TIMEOUT)
        except asyncio.CancelledError:
            news = Stopped()
        except MeshError as error:
            news = _failed(error)
        except Exception:  # noqa: BLE001 - the job must end
            _log.exception("a batch failed")
            news = _failed(Internal("the jobs service failed; see its log"))
        await asyncio.shield(asyncio.create_task(self._end(key, Update(id=claim.id, news=news))))

    async def _end(self, key: int, update: Update) -> None:
        """Stores the end of an attempt, however long the database is away."""
        while True:
            try:
                applied = await self._store.apply(key, [update])
                self._observer.ended(applied.ended)
                break
            except MeshError as error:
                _log.warning("the end of a batch could not be stored yet: %s", error.message)
                if self.closed:
                    break  # its session ends, and it runs elsewhere
            await asyncio.sleep(_RETRY_S)
        self._ended(update.id)

    def _ended(self, attempt: AttemptId) -> None:
        self._running.pop(attempt, None)
        self.wake()


def _failed(error: MeshError) -> Failed:
    return Failed(failure=to_facts(error), fault=Fault.TRANSIENT)
