"""From a batch's input file to its requests: the file is checked, then its requests are stored.

Each transaction stores some requests and how much of the file was read with them, so that another
attempt goes on from there.
"""

from collections.abc import AsyncGenerator, Callable, Sequence

from mlxmesh_jobs.batches.input import Checker, Expected, InputError, new_requests
from mlxmesh_jobs.batches.lines import Line, LineSplitter
from mlxmesh_jobs.domain.jobs import AttemptId
from mlxmesh_jobs.domain.ports import BatchStore, FileStore, NewRequest
from mlxmesh_shared.rpc.requests.parser import finish_in_thread

REQUESTS_AT_ONCE = 500
Encode = Callable[[str, bytes], bytes]
"""A RequestWork, from the path and the body of a request."""
BYTES_AT_ONCE = 8_000_000
"""Of the bodies that one transaction stores, unless a single one is larger."""


async def find_errors(files: FileStore, file_id: str, expected: Expected) -> list[InputError]:
    """What is wrong with an input file, at most the first MAX_ERRORS."""
    checker = Checker(expected)
    async for lines in _lines(files, file_id, offset=0):
        await finish_in_thread(checker.check, lines)
        if checker.is_done:
            break
    checker.finish()
    return checker.errors


async def store_requests(
    batches: BatchStore,
    files: FileStore,
    batch: AttemptId,
    file_id: str,
    expected: Expected,
    *,
    encode: Encode,
    max_running: int = 0,
) -> int:
    """Stores the requests of a file that was checked; returns how many there are.

    Raises: IllegalState for an older attempt.
    """
    read_bytes, stored = await batches.read_bytes(batch.job_id)
    async for lines in _lines(files, file_id, offset=read_bytes):
        for some in _divided(lines):
            requests = await finish_in_thread(_requests, some, expected, stored, encode)
            await batches.add_requests(
                batch, requests, read_bytes=some[-1].end, max_running=max_running
            )
            stored += len(requests)
    await batches.set_total(batch, stored)
    return stored


def _requests(
    lines: Sequence[Line], expected: Expected, after: int, encode: Encode
) -> list[NewRequest]:
    return [
        NewRequest(
            number=one.number, custom_id=one.custom_id, body=encode(expected.endpoint, one.body)
        )
        for one in new_requests(lines, expected, after=after)
    ]


def _divided(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of each transaction."""
    found: list[list[Line]] = []
    size_bytes = 0
    for line in lines:
        full = found and len(found[-1]) >= REQUESTS_AT_ONCE
        if not found or full or size_bytes + len(line.text) > BYTES_AT_ONCE:
            found.append([])
            size_bytes = 0
        found[-1].append(line)
        size_bytes += len(line.text)
    return found


async def _lines(files: FileStore, file_id: str, *, offset: int) -> AsyncGenerator[Sequence[Line]]:
    """The lines of a file, those together that end in one piece of it or a few."""
    splitter = LineSplitter(offset=offset)
    waiting: list[Line] = []
    async for piece in files.read(file_id, offset):
        waiting += splitter.feed(piece)
        if len(waiting) >= REQUESTS_AT_ONCE or sum(len(one.text) for one in waiting) > 2**20:
            yield waiting
            waiting = []
    waiting += splitter.finish()
    if waiting:
        yield waiting
