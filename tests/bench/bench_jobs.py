"""The jobs database: jobs a second, and claims while a million jobs wait.

    .venv/bin/python -m tests.bench.bench_jobs [--rounds 1] [--jobs 20000] [--waiting 1000000]

--jobs: how many are submitted one by one, claimed and completed.
--waiting: how many wait while others are claimed.

SQLite and PostgreSQL wait until every commit is on the disk.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mlxmesh_jobs.domain.jobs import NewJob, QueueSettings, Update
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.store import SqlJobStore
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.bench.results import Findings, Result, Row, run_alone
from tests.fakes.new_jobs import ALL, completed, new_job
from tests.fakes.postgres import postgres_server

JOBS = 20_000
WAITING = 1_000_000
SUBMITTERS = 256
"""Calls at once."""
WORKERS = 8
SLOTS = 64
"""Of each worker."""
CLAIMS = 1_000
WANTED = {"SQLite": 1_000, "PostgreSQL": 2_000}
MAX_CLAIM_MS = 20
PRIORITIES = 201
PRINCIPALS = 50
GREEDY = "user:greedy"
LIMIT = 10
"""Of running jobs of a principal."""
DURABLE = ("shared_buffers=128MB", "max_wal_size=2GB")


@asynccontextmanager
async def opened(url: DatabaseUrl) -> AsyncGenerator[SqlJobStore]:
    """A store on an empty database."""
    database = await JobsDatabase.open(url)
    try:
        yield SqlJobStore(database)
    finally:
        await database.close()


async def jobs_per_s(store: SqlJobStore, count: int) -> float:
    """Submits jobs one by one, and claims and completes them as workers do meanwhile."""
    numbers = iter(range(count))
    left = count

    async def submit() -> None:
        for number in numbers:
            await store.submit([new_job(f"job-{number}")])

    async def work(worker: int) -> None:
        nonlocal left
        session = await store.open_session(f"worker-{worker}", "s")
        while left > 0:
            claims, _ = await store.claim(session, ALL, SLOTS)
            if not claims:
                await asyncio.sleep(0.005)
                continue
            updates = [Update(id=one.id, news=completed()) for one in claims]
            applied = await store.apply(session, updates)
            left -= len(applied.ended)

    start_s = time.perf_counter()
    submitters = [submit() for _ in range(SUBMITTERS)]
    await asyncio.gather(*submitters, *(work(number) for number in range(WORKERS)))
    return count / (time.perf_counter() - start_s)


def of_one_lane(number: int) -> NewJob:
    """All jobs are alike."""
    return new_job(f"waiting-{number}")


def of_many_lanes(number: int) -> NewJob:
    """Half of the jobs are one principal's, and each priority has some."""
    others = number // 2
    principal = GREEDY if number % 2 else f"user:{others % PRINCIPALS}"
    priority = others // PRINCIPALS % PRIORITIES - PRIORITIES // 2
    return new_job(f"waiting-{number}", principal=principal, priority=priority)


async def fill(store: SqlJobStore, shape: Callable[[int], NewJob], count: int) -> None:
    """Lets jobs wait."""
    numbers = iter(range(count))
    while jobs := [shape(number) for number in itertools.islice(numbers, 1_000)]:
        await store.submit(jobs)


async def claims_ms(store: SqlJobStore, *, limit: int) -> list[float]:
    """How long claims take whose jobs are completed before the next one."""
    session = await store.open_session("worker", "s")
    found: list[float] = []
    for _ in range(CLAIMS):
        start_s = time.perf_counter()
        claims, _ = await store.claim(session, ALL, limit)
        found.append((time.perf_counter() - start_s) * 1_000)
        await store.apply(session, [Update(id=one.id, news=completed()) for one in claims])
    return found


async def measure_claims(
    kind: str, store: SqlJobStore, shape: str
) -> AsyncGenerator[tuple[Row, Result]]:
    """Claims of one job and of many, without a limit and with a principal that is at its own."""
    await store.promote()
    for limit in (1, SLOTS):
        yield _judged(f"{kind}, {shape}, {limit} at once", await claims_ms(store, limit=limit))
    if shape == "one lane":
        return
    await store.set_queue("generation", QueueSettings(max_running_per_principal=LIMIT))
    greedy = await store.open_session("greedy", "s")
    while [one for one in (await store.claim(greedy, ALL, SLOTS))[0] if one.owner.share == GREEDY]:
        pass
    yield _judged(f"{kind}, {shape}, one at its limit", await claims_ms(store, limit=1))


def _judged(name: str, found: Sequence[float]) -> tuple[Row, Result]:
    p99 = statistics.quantiles(found, n=100)[98]
    row: Row = {
        "claims": name,
        "p50 ms": statistics.median(found),
        "p99 ms": p99,
        "most ms": max(found),
    }
    return row, Result(f"claim p99: {name}", p99, MAX_CLAIM_MS, "ms", at_least=False)


@asynccontextmanager
async def databases() -> AsyncGenerator[Iterator[tuple[str, DatabaseUrl]]]:
    """Empty ones of both kinds, again and again."""
    with tempfile.TemporaryDirectory() as folder, postgres_server(DURABLE) as postgres:

        def made() -> Iterator[tuple[str, DatabaseUrl]]:
            for number in itertools.count():
                yield "SQLite", SqliteFile(Path(folder) / f"{number}.db")
                yield "PostgreSQL", postgres.create_database()

        yield made()


async def _measure(rounds: int, jobs: int, waiting: int) -> Findings:
    rates: dict[str, list[float]] = {kind: [] for kind in WANTED}
    rows: list[Row] = []
    results: list[Result] = []
    async with databases() as empty:
        for _ in range(rounds * len(WANTED)):
            kind, url = next(empty)
            async with opened(url) as store:
                rates[kind].append(await jobs_per_s(store, jobs))
        for shape, job in (("one lane", of_one_lane), ("many lanes", of_many_lanes)):
            for _ in WANTED:
                kind, url = next(empty)
                async with opened(url) as store:
                    await fill(store, job, waiting)
                    async for row, result in measure_claims(kind, store, shape):
                        rows.append(row)
                        results.append(result)
    found: list[Row] = [
        {"database": kind, "jobs/s": statistics.median(each)} for kind, each in rates.items()
    ]
    judged = [
        Result(f"jobs/s, {kind}", statistics.median(each), WANTED[kind], "jobs/s")
        for kind, each in rates.items()
    ]
    return Findings(
        [*judged, *results],
        {"submitted, claimed and completed": found, f"claims while {waiting:,} jobs wait": rows},
    )


def measure(rounds: int, *, jobs: Sequence[int], waiting: Sequence[int]) -> Findings:
    """Both figures, on both kinds of database."""
    return asyncio.run(_measure(rounds, jobs[0], waiting[0]))


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=1, jobs=[JOBS], waiting=[WAITING])
