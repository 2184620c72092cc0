"""kill -9 of whoever runs a batch, while it stores the requests and while it writes the files."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from mlxmesh_jobs.batches.assembly import all_items
from mlxmesh_jobs.batches.convert import to_outcome
from mlxmesh_jobs.batches.results import line_of
from mlxmesh_jobs.domain.states import State
from mlxmesh_shared.errors import FileNotFound
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.batch_rig import BatchRig, batch_rig, line

TIMEOUT_S = 120
REQUESTS = 2_500
PADDING = "x" * 1_500
"""So that the files have several pieces."""
KILLS = 2


@pytest.fixture
async def rig(database: DatabaseUrl) -> AsyncGenerator[BatchRig]:
    async with batch_rig(database) as made:
        yield made


@pytest.fixture
def url(database: DatabaseUrl) -> str:
    return f"sqlite:///{database.path}" if isinstance(database, SqliteFile) else str(database)


def requests() -> list[bytes]:
    return [
        line(f"c-{n}", id=f"c-{n}", padding=PADDING, fails=n % 100 == 0)
        for n in range(1, REQUESTS + 1)
    ]


async def started(url: str, session: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.batch_child", url, session
    )


async def kill_when(process: Process, reached: Callable[[], Awaitable[bool]]) -> bool:
    """Kills the process as soon as something is so; False if it ended before."""
    while not await reached():
        if process.returncode is not None:
            return False
        await asyncio.sleep(0)
    process.kill()
    await process.wait()
    return True


class Expansion:
    """How far the requests of the batch were stored."""

    def __init__(self, rig: BatchRig) -> None:
        self._rig = rig
        self.stored = 0

    async def goes_on(self) -> bool:
        before, (_, self.stored) = self.stored, await self._rig.batches.read_bytes("b")
        return before < self.stored < REQUESTS


class Assembly:
    """How far the file of results was written."""

    def __init__(self, rig: BatchRig) -> None:
        self._rig = rig
        self.size_bytes = 0

    async def goes_on(self) -> bool:
        file_id = (await self._rig.result("b")).output_file_id
        if not file_id:
            return False
        try:
            file = await self._rig.files.get(file_id)
        except FileNotFound:
            return False
        before, self.size_bytes = self.size_bytes, file.size_bytes
        return before < file.size_bytes and not file.complete


async def test_no_request_is_lost_or_doubled_and_the_files_are_the_same(
    rig: BatchRig, url: str
) -> None:
    await rig.submit("b", await rig.add_file(requests()))
    expansion, assembly = Expansion(rig), Assembly(rig)
    killed = Counter[str]()
    ran: list[str] = []
    async with asyncio.timeout(TIMEOUT_S):
        for number in range(KILLS):
            process = await started(url, f"expands-{number}")
            killed["expansion"] += await kill_when(process, expansion.goes_on)
            await rig.end_session(f"expands-{number}")
        async with rig.working(ran=ran):
            for number in range(KILLS):
                process = await started(url, f"assembles-{number}")
                killed["assembly"] += await kill_when(process, assembly.goes_on)
                await rig.end_session(f"assembles-{number}")
            process = await started(url, "last")
            await process.wait()
    assert min(killed["expansion"], killed["assembly"]) > 0, killed

    job = await rig.jobs.get("b")
    assert (job.state, job.batch and job.batch.total) == (State.COMPLETED, REQUESTS)
    assert Counter(ran) == Counter(f"b:{n}" for n in range(1, REQUESTS + 1))
    assert await files_of(rig, "b") == await expected_files(rig)


async def files_of(rig: BatchRig, batch_id: str) -> tuple[bytes, bytes]:
    result = await rig.result(batch_id)
    return await rig.content(result.output_file_id), await rig.content(result.error_file_id)


async def expected_files(rig: BatchRig) -> tuple[bytes, bytes]:
    """Those that one attempt writes, of the same requests and results."""
    good, bad, number = b"", b"", 0
    async for item in all_items(rig.batches, "b"):
        number += 1
        outcome = to_outcome(item)
        assert (outcome.number, outcome.custom_id) == (number, f"c-{number}")
        if outcome.succeeded:
            good += line_of("b", outcome)
        else:
            bad += line_of("b", outcome)
    return good, bad
