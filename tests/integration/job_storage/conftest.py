"""The stores of the jobs service on a real database."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from mlxmesh_jobs.domain.jobs import Kind
from mlxmesh_jobs.storage.batches import SqlBatchStore
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.files import SqlFileStore
from mlxmesh_jobs.storage.schema import JOBS
from mlxmesh_jobs.storage.store import SqlJobStore
from mlxmesh_jobs.storage.usage import SqlUsageOutbox
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.clock import FakeClock

MAX_FILES_BYTES = 5_000_000
_COUNTS = """
SELECT lanes.id FROM lanes LEFT JOIN (
    SELECT lane, SUM(CASE WHEN state = 1 THEN 1 ELSE 0 END) AS delayed,
        SUM(CASE WHEN state = 2 THEN 1 ELSE 0 END) AS waiting,
        SUM(CASE WHEN state IN (3, 4) THEN 1 ELSE 0 END) AS running,
        SUM(CASE WHEN state = 6 THEN 1 ELSE 0 END) AS failed
    FROM jobs GROUP BY lane) AS found ON found.lane = lanes.id
WHERE lanes.delayed <> COALESCE(found.delayed, 0) OR lanes.waiting <> COALESCE(found.waiting, 0)
    OR lanes.running <> COALESCE(found.running, 0) OR lanes.failed <> COALESCE(found.failed, 0)
"""


@dataclass
class Stores:
    """What one jobs service has of the database."""

    database: JobsDatabase
    jobs: SqlJobStore
    batches: SqlBatchStore
    files: SqlFileStore
    usage: SqlUsageOutbox
    clock: FakeClock

    @classmethod
    def of(cls, database: JobsDatabase, clock: FakeClock) -> Stores:
        return cls(
            database,
            SqlJobStore(database),
            SqlBatchStore(database),
            SqlFileStore(database, max_bytes_per_principal=MAX_FILES_BYTES),
            SqlUsageOutbox(database),
            clock,
        )

    async def session(self, worker_id: str = "worker-1") -> int:
        return await self.jobs.open_session(worker_id, "s")

    async def check_lanes(self) -> None:
        """Every lane counts its jobs."""
        wrong = await self.database.transactions.read(lambda session: session.fetch(_COUNTS))
        assert list(wrong) == []

    async def count(self, table: str) -> int:
        rows = await self.database.transactions.read(
            lambda session: session.fetch(f"SELECT COUNT(*) AS count FROM {table}")
        )
        return rows[0]["count"]


Open = Callable[[], Awaitable[Stores]]


@pytest.fixture
def schema() -> Schema:
    return JOBS


@pytest.fixture
async def open_stores(database: DatabaseUrl) -> AsyncGenerator[Open]:
    """Opens the database once more, as another jobs service."""
    clock = FakeClock()
    async with AsyncExitStack() as stack:

        async def opened() -> Stores:
            jobs = await JobsDatabase.open(database, clock)
            stack.push_async_callback(jobs.close)
            return Stores.of(jobs, clock)

        yield opened


@pytest.fixture
async def stores(open_stores: Open) -> AsyncGenerator[Stores]:
    """Whatever happens, the counts of its lanes are right in the end."""
    opened = await open_stores()
    yield opened
    await opened.check_lanes()


BATCHES = frozenset({Kind.BATCH})
REQUESTS = frozenset({Kind.REQUEST})
