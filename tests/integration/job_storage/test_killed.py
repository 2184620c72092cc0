"""A jobs service that is killed before or after it commits, and disks that are full."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mlxmesh_jobs.domain.jobs import Outputs
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.schema import JOBS
from mlxmesh_shared.errors import DiskFull, IllegalState, JobNotFound
from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.clock import FakeClock
from tests.fakes.killed import Killed, Moment, MortalDatabase
from tests.fakes.new_jobs import (
    BROKEN,
    USED,
    claim,
    claim_one,
    completed,
    failed,
    new_job,
    tell,
)
from tests.fakes.small_disk import needs_mount, small_disk
from tests.integration.job_storage.conftest import Stores

PATIENCE_S = 60
KILLS = 5


@asynccontextmanager
async def mortal(
    url: DatabaseUrl, clock: FakeClock
) -> AsyncGenerator[tuple[Stores, MortalDatabase]]:
    database = MortalDatabase(await open_database(url, JOBS))
    jobs = JobsDatabase(url, database, clock)
    try:
        yield Stores.of(jobs, clock), database
    finally:
        await jobs.close()


async def _complete(stores: Stores, session: int) -> None:
    [id_] = await stores.jobs.held(session)
    await tell(
        stores.jobs,
        session,
        id_,
        Outputs(first=1, messages=[b"1"], position=b"p"),
        completed(b"42", used=USED),
    )


async def _fail(stores: Stores, session: int) -> None:
    [id_] = await stores.jobs.held(session)
    await tell(stores.jobs, session, id_, failed(Fault.JOB))


async def _lose(stores: Stores, session: int) -> None:
    await stores.jobs.end_session(session, beat=None, fault=Fault.WORKER_LOST, failure=BROKEN)


async def _cancel(stores: Stores, session: int) -> None:
    await stores.jobs.cancel("a")


DEEDS: dict[str, tuple[Callable[[Stores, int], Awaitable[None]], State]] = {
    "complete": (_complete, State.COMPLETED),
    "fail": (_fail, State.FAILED),
    "lose": (_lose, State.WAITING),
    "cancel": (_cancel, State.CANCELLING),
}
MOMENTS: list[Moment] = ["before the commit", "after the commit"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("deed", DEEDS)
async def test_a_killed_service_has_done_all_or_nothing(
    database: DatabaseUrl, deed: str, moment: Moment
):
    clock, (act, state) = FakeClock(), DEEDS[deed]
    async with mortal(database, clock) as (stores, dying):
        await stores.jobs.submit([new_job("a")])
        session = await stores.session()
        await claim_one(stores.jobs, session)
        dying.dies = moment
        with pytest.raises(Killed):
            await act(stores, session)
    async with mortal(database, clock) as (stores, _):
        job = await stores.jobs.get("a")
        done = moment == "after the commit"
        assert job.state is (state if done else State.RUNNING)
        assert bool(await stores.jobs.result("a")) == (done and deed == "complete")
        assert job.outputs == (done and deed == "complete")
        assert await stores.count("usage_outbox") == (done and deed == "complete")
        await stores.check_lanes()


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_submit_that_is_repeated_after_a_kill_stores_one_job(
    database: DatabaseUrl, moment: Moment
):
    async with mortal(database, FakeClock()) as (stores, dying):
        dying.dies = moment
        with pytest.raises(Killed):
            await stores.jobs.submit([new_job("a"), new_job("b")])
    async with mortal(database, FakeClock()) as (stores, _):
        await stores.jobs.submit([new_job("a"), new_job("b")])
        assert await stores.count("jobs") == 2
        await stores.check_lanes()


_SUBMITS = """
import asyncio, sys
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.store import SqlJobStore
from mlxmesh_shared.sql.urls import database_url
from tests.fakes.new_jobs import new_job

async def main():
    store = SqlJobStore(await JobsDatabase.open(database_url(sys.argv[1])))
    async def submit(first):
        for number in range(first, 1_000_000, 8):
            [job] = await store.submit([new_job(f"{sys.argv[2]}-{number}")])
            print(job.job_id, flush=True)
    await asyncio.gather(*map(submit, range(8)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(database: DatabaseUrl):
    """Of a real process, in the middle of its transactions."""
    text = f"sqlite:///{database.path}" if isinstance(database, SqliteFile) else str(database)
    acknowledged: list[str] = []
    for number in range(KILLS):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _SUBMITS, text, f"run{number}",
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(20 + number):
                acknowledged.append((await process.stdout.readline()).decode().strip())
        os.kill(process.pid, signal.SIGKILL)
        rest = await process.stdout.read()
        acknowledged += rest.decode().split()
        await process.wait()
    async with mortal(database, FakeClock()) as (stores, _):
        for job_id in acknowledged:
            if job_id.count("-"):
                assert (await stores.jobs.get(job_id)).state is State.WAITING
        assert len(acknowledged) >= KILLS * 20
        await stores.check_lanes()


async def _fill(stores: Stores) -> list[str]:
    """Submits until there is no room; the ids of the jobs that were acknowledged."""
    stored: list[str] = []

    async def submit_more() -> None:
        for number in range(10_000):
            await stores.jobs.submit([new_job(f"a{number}", request=bytes(5_000))])
            stored.append(f"a{number}")

    with pytest.raises(DiskFull):
        await submit_more()
    with pytest.raises(JobNotFound):
        await stores.jobs.get(f"a{len(stored)}")
    return stored


async def test_a_size_limit_refuses_submits_and_loses_nothing(tmp_path: Path):
    async with mortal(SqliteFile(tmp_path / "jobs.db"), FakeClock()) as (stores, _):
        async with stores.database.transactions.write() as session:
            await session.fetch("PRAGMA max_page_count=200")
        stored = await _fill(stores)
        async with stores.database.transactions.write() as session:
            await session.fetch("PRAGMA max_page_count=20000")
        worker = await stores.session()
        claims = await claim(stores.jobs, worker, 1_000)
        assert [one.id.job_id for one in claims] == stored
        await stores.check_lanes()


@needs_mount
async def test_a_full_disk_refuses_submits_until_there_is_room(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk:
        async with mortal(SqliteFile(disk.path / "jobs.db"), FakeClock()) as (stores, _):
            worker = await stores.session()
            disk.fill(left_bytes=100_000)
            stored = await _fill(stores)
            disk.free()
            await stores.jobs.submit([new_job("later")])
            claims = await claim(stores.jobs, worker, 1_000)
            assert [one.id.job_id for one in claims] == [*stored, "later"]


async def test_a_read_only_database_refuses_submits(tmp_path: Path):
    async with mortal(SqliteFile(tmp_path / "jobs.db"), FakeClock()) as (stores, _):
        await stores.jobs.submit([new_job("a")])
        async with stores.database.transactions.write() as session:
            await session.fetch("PRAGMA query_only=ON")
        with pytest.raises(IllegalState, match="cannot be written"):
            await stores.jobs.submit([new_job("b")])
        assert (await stores.jobs.get("a")).state is State.WAITING
    async with mortal(SqliteFile(tmp_path / "jobs.db"), FakeClock()) as (stores, _):
        await stores.jobs.submit([new_job("b")])
        assert await stores.count("jobs") == 2
