"""Follows all jobs of a caller: the newest, then each after its changes."""

import asyncio
from collections.abc import AsyncGenerator

from mlxmesh_jobs.domain.jobs import JobChanges, JobFilter
from mlxmesh_jobs.domain.ports import JobStore

MAX_JOBS = 500
"""In one message."""
_NEWEST_KEY = 2**62
_NEVER = 2**62


async def follow_jobs(
    store: JobStore, *, principal: str, after: int, newest: int, interval_s: float
) -> AsyncGenerator[JobChanges]:
    """What changed after a change, or the newest jobs for 0; then changes, until it is closed.

    principal: only its jobs; empty for all. interval_s: the shortest time between two messages.
    """
    with store.subscribe() as changed:
        found = await store.changes(_NEVER, principal=principal, limit=1)
        if not after or after > found.change:  # that was another database
            after = found.change
            wanted = JobFilter(principal=principal)
            jobs = await store.list(wanted, before_key=_NEWEST_KEY, limit=newest) if newest else ()
            yield JobChanges(jobs=jobs, change=after)
        while True:
            changed.clear()
            found = await store.changes(after, principal=principal, limit=MAX_JOBS)
            after = found.change
            if found.jobs:
                yield found
            await changed.wait()
            await asyncio.sleep(interval_s)
