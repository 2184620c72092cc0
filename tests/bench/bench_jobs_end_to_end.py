"""Jobs from their submission to their end, with real processes: jobs a second, and who works.

    .venv/bin/python -m tests.bench.bench_jobs_end_to_end [--rounds 3] [--jobs 5000] [--json FILE]

SQLite and PostgreSQL wait until every commit is on the disk. One jobs service, eight workers and
one simulated back end whose work takes no time; this process submits 100 jobs a call. All of them
share the cores of this machine: where one process uses a whole core, it is the limit; where none
does, the cores are.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from mlxmesh.job.v1 import job_pb2 as pb
from tests.bench.bench_jobs import DURABLE
from tests.bench.idle_usage import Reading, read
from tests.bench.results import Findings, Result, Row, run_alone
from tests.chaos.jobs.calls import JobsCalls
from tests.chaos.jobs.processes import SIMULATION, JobsMesh, Shape, database, running
from tests.chaos.jobs.record import Record

WANTED = {"sqlite": 1_000, "postgres": 2_000}
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
JOBS = 5_000.0
A_CALL, CALLERS = 100, 4
SLOTS = 64
SUBMITTER, POSTGRES = "submitter", "PostgreSQL"
_POLL_S = 0.02
OPEN = (pb.JOB_STATE_DELAYED, pb.JOB_STATE_WAITING, pb.JOB_STATE_RUNNING)


@dataclass(frozen=True)
class Round:
    """One measurement."""

    jobs_per_s: float
    submitted_per_s: float
    cores: dict[str, float]
    """How many cores each role used."""


async def measured(mesh: JobsMesh, calls: JobsCalls, prefix: str, jobs: int) -> Round:
    """Submits jobs, and waits until all have ended."""
    record = Record(mesh.record)
    record.read()
    wanted = record.effects + jobs
    roles = _roles(mesh)
    before = read(map(psutil.Process, roles))
    numbers = iter(range(0, jobs, A_CALL))

    async def caller() -> None:
        for first in numbers:
            await calls.submit([_job(f"{prefix}-{first + each}") for each in range(A_CALL)])

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    submitted_s = time.monotonic() - before.at_s
    while record.effects < wanted or await calls.any(OPEN):
        record.read()
        await asyncio.sleep(_POLL_S)
    after = read(map(psutil.Process, roles))
    return Round(
        jobs / (after.at_s - before.at_s), jobs / submitted_s, _cores(roles, before, after)
    )


def _job(job_id: str) -> pb.SubmitJobRequest:
    work = pb.ConnectorWork(connector="simulation_http", arguments_json="{}")
    return pb.SubmitJobRequest(job_id=job_id, connector=work)


def _roles(mesh: JobsMesh) -> dict[int, str]:
    roles = {mesh.pid(name): name.partition("-")[0] for name in (*mesh.jobs, *mesh.workers)}
    roles |= {mesh.pid(SIMULATION): SIMULATION, os.getpid(): SUBMITTER}
    for child in psutil.Process().children(recursive=True):
        if child.pid not in roles and child.name() == "postgres":
            roles[child.pid] = POSTGRES
    return roles


def _cores(roles: dict[int, str], before: Reading, after: Reading) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for pid, usage in after.by_pid.items():
        used = usage.since(before.by_pid[pid])
        found[roles[pid]] += used.cpu_s / (after.at_s - before.at_s)
    return dict(found)


async def _measure_all(kind: str, rounds: int, jobs: int) -> list[Round]:
    with database(kind, DURABLE) as url:
        environment = {
            "MLXMESH_WORKER_SLOTS": str(SLOTS),
            "MLXMESH_WORKER_SLOTS_PER_CONNECTOR": str(SLOTS),
            "MLXMESH_LOG_LEVEL": "warning",
        }
        shape = Shape(jobs=1, database_url=url, environment=environment)
        async with running(shape) as mesh:
            calls = JobsCalls(mesh.addresses)
            try:
                await measured(mesh, calls, "warm-up", A_CALL)
                return [await measured(mesh, calls, f"round-{n}", jobs) for n in range(rounds)]
            finally:
                await calls.close()


def _row(kind: str, rounds: Sequence[Round]) -> Row:
    rate = statistics.median(each.jobs_per_s for each in rounds)
    return {
        "database": NAMES[kind],
        "jobs/s": rate,
        "submitted/s": statistics.median(each.submitted_per_s for each in rounds),
        "of the target": rate / WANTED[kind],
    }


def _cpu_rows(kind: str, rounds: Sequence[Round]) -> list[Row]:
    roles = sorted({role for each in rounds for role in each.cores})
    cores = {
        role: statistics.median(each.cores.get(role, 0.0) for each in rounds) for role in roles
    }
    return [
        {
            "database": NAMES[kind],
            "process": role,
            "cores": used,
            "share": used / sum(cores.values()),
            "CPU µs a job": 1e6 * used / statistics.median(each.jobs_per_s for each in rounds),
        }
        for role, used in sorted(cores.items(), key=lambda each: -each[1])
    ]


def measure(rounds: int, jobs: Sequence[float]) -> Findings:
    """Both databases."""
    found = {kind: asyncio.run(_measure_all(kind, rounds, int(jobs[0]))) for kind in WANTED}
    return Findings(
        [
            Result(
                f"jobs from submission to end, {NAMES[kind]}",
                statistics.median(each.jobs_per_s for each in rounds_),
                WANTED[kind],
                "jobs/s",
            )
            for kind, rounds_ in found.items()
        ],
        {
            "jobs end to end": [_row(kind, each) for kind, each in found.items()],
            "CPU by process": [
                row for kind, each in found.items() for row in _cpu_rows(kind, each)
            ],
        },
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=3, jobs=(JOBS,))
