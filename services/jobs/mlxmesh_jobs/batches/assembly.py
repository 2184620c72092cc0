"""From the results of a batch's requests to its files, in the order of the input file."""

import secrets
from collections.abc import AsyncGenerator, Callable

from mlxmesh_jobs.batches.results import RequestOutcome, line_of
from mlxmesh_jobs.clock import Clock
from mlxmesh_jobs.domain.jobs import Owner
from mlxmesh_jobs.domain.ports import BatchItem, BatchStore, FileStore, StoredFile
from mlxmesh_jobs.files.limits import JOB_RETENTION_S, Purpose
from mlxmesh_jobs.files.writer import FileWriter

PAGE = 256
PAGE_BYTES = 4_000_000
"""What a page of results should hold at most."""
MEDIA_TYPE = "application/jsonl"


def new_file_id() -> str:
    """An id for a file of results or of errors."""
    return f"file-{secrets.token_hex(12)}"


def output_file(
    file_id: str, name: str, *, owner: Owner, batch_id: str, clock: Clock
) -> StoredFile:
    """A file of results or of errors, not begun."""
    now_ms = clock()
    return StoredFile(
        file_id=file_id,
        name=name,
        purpose=Purpose.BATCH_OUTPUT,
        size_bytes=0,
        sha256="",
        media_type=MEDIA_TYPE,
        complete=False,
        owner=owner,
        created_ms=now_ms,
        expires_ms=now_ms + JOB_RETENTION_S * 1000,
        job_id=batch_id,
    )


async def write_results(
    batches: BatchStore,
    files: FileStore,
    batch_id: str,
    *,
    results: StoredFile,
    errors: StoredFile,
    read: Callable[[BatchItem], RequestOutcome],
) -> tuple[StoredFile | None, StoredFile | None]:
    """Completes the files of results and of errors; None for one that would be empty.

    Raises: DiskFull, FilesFull.
    """
    good, bad = FileWriter(files, results), FileWriter(files, errors)
    async for item in all_items(batches, batch_id):
        outcome = read(item)
        await (good if outcome.succeeded else bad).write(line_of(batch_id, outcome))
    return await good.finish(), await bad.finish()


async def all_items(
    batches: BatchStore, batch_id: str, *, after: int = 0
) -> AsyncGenerator[BatchItem]:
    """The requests that have ended, in their order; a page of them is in memory."""
    limit = PAGE
    while page := await batches.items(batch_id, after=after, limit=limit):
        for item in page:
            yield item
        after = page[-1].number
        size_bytes = sum(len(item.result) for item in page)
        mean_bytes = max(1, size_bytes // len(page))
        limit = max(1, min(PAGE, PAGE_BYTES // mean_bytes))
