"""Follows a job: what is stored of its stream, and its latest state."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from mlxmesh_jobs.domain.jobs import Job
from mlxmesh_jobs.domain.ports import JobStore

PAGE = 256
MIN_INTERVAL_S = 0.02
"""Between looks; longer the more jobs are watched, since every change wakes every watch."""
_WATCHES_PER_INTERVAL = 16
_MAX_INTERVAL_S = 0.5
Change = tuple[int, Job | bytes]
"""The job's sequence, and the job as it is then or the next message of its stream."""


class Watches:
    """All watches of this process."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._running = 0

    async def follow(self, job: Job, after_sequence: int) -> AsyncGenerator[Change]:
        """Every message of the stream after a sequence, and the job when it has changed; ends
        with the ended job. Raises: JobNotFound when it is removed, and other MeshErrors.
        """
        self._running += 1
        try:
            with self._store.subscribe() as changed:
                watch = _Watch(self._store, job.job_id, after_sequence)
                while True:
                    changed.clear()
                    async for change in watch.news():
                        yield change
                    if watch.ended:
                        return
                    await asyncio.sleep(self._interval_s())
                    await changed.wait()
        finally:
            self._running -= 1

    def _interval_s(self) -> float:
        return min(_MAX_INTERVAL_S, MIN_INTERVAL_S * (1 + self._running / _WATCHES_PER_INTERVAL))


class _Watch:
    """What one watch has sent."""

    def __init__(self, store: JobStore, job_id: str, after_sequence: int) -> None:
        self._store = store
        self._job_id = job_id
        self._sequence = after_sequence
        self._last: Job | None = None
        self.ended = False
        """Whether the ended job was sent."""

    async def news(self) -> AsyncGenerator[Change]:
        """What has happened since the last time."""
        job = await self._store.get(self._job_id)
        async for sequence, output in self._outputs(job):
            self._sequence = sequence
            yield sequence, output
        # With messages that are newer than this look at the job, the next one shows its state.
        if job.sequence < self._sequence and not job.state.ended:
            return
        shown = replace(job, sequence=0, outputs=0)
        is_known = self._last is None and job.sequence <= self._sequence
        if job.state.ended or (shown != self._last and not is_known):
            self._sequence = max(job.sequence, self._sequence)
            yield self._sequence, job
        self._last = shown
        self.ended = job.state.ended

    async def _outputs(self, job: Job) -> AsyncGenerator[tuple[int, bytes]]:
        if not job.outputs or job.sequence <= self._sequence:
            return
        after = self._sequence
        while True:
            page = await self._store.outputs(self._job_id, after_sequence=after, limit=PAGE)
            for sequence, output in page:
                yield sequence, output
            if len(page) < PAGE:
                return
            after = page[-1][0]
