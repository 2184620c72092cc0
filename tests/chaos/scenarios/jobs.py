"""Jobs services and workers killed and paused while they run jobs: each job's effect, once."""

from __future__ import annotations

from functools import partial

from tests.bench.results import Findings
from tests.chaos.jobs.trial import Plan, play
from tests.chaos.scenario import Run, Scenario

JOBS_A_KILL, KILLS_A_PAUSE = 200, 8


async def _play(run: Run, database: str) -> Findings:
    plan = Plan(
        jobs=JOBS_A_KILL * run.count,
        kills=run.count,
        pauses=max(1, run.count // KILLS_A_PAUSE),
        database=database,
        seed=run.count,
    )
    return await play(plan, run.report, run.folder)


_FAULT = "kill -9 and SIGSTOP of workers and jobs services, {}"
SCENARIOS = (
    Scenario("jobs-sqlite", _FAULT.format("SQLite"), 40, 600.0, partial(_play, database="sqlite")),
    Scenario(
        "jobs-postgres",
        _FAULT.format("PostgreSQL"),
        40,
        600.0,
        partial(_play, database="postgres"),
    ),
)
"""`python -m tests.chaos.jobs` runs them with other numbers."""
