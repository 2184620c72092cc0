"""Reads the results of a batch, also while it runs."""

import asyncio
from collections.abc import AsyncGenerator

from mlxmesh_jobs.batches.assembly import all_items
from mlxmesh_jobs.domain.ports import BatchItem, BatchStore, JobStore

LOOK_S = 5.0
PAUSE_S = 0.1
"""Between two looks, since a batch changes with each of its requests."""


async def read_batch(
    jobs: JobStore, batches: BatchStore, batch_id: str, *, after: int, follow: bool
) -> AsyncGenerator[BatchItem]:
    """The results after a number, in order.

    follow: waits for each request; else those that have not ended are skipped.
    """
    if not follow:
        async for item in all_items(batches, batch_id, after=after):
            yield item
        return
    with jobs.subscribe() as changed:
        while True:
            changed.clear()
            ended = (await jobs.get(batch_id)).state.ended
            async for item in all_items(batches, batch_id, after=after):
                if item.number != after + 1 and not ended:
                    break
                yield item
                after = item.number
            if ended:
                return
            await _change(changed)


async def _change(changed: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(LOOK_S):
            await changed.wait()
    except TimeoutError:
        return
    await asyncio.sleep(PAUSE_S)
