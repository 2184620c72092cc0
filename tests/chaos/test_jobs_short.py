"""Jobs while jobs services and workers are killed and paused. Times are not judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.jobs.trial import Plan, play

_UNTIMED = ("", "ratio")


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_every_acknowledged_job_has_its_effect_once(database: str, tmp_path: Path) -> None:
    plan = Plan(
        jobs=2_000, kills=8, pauses=2, database=database, seed=1, lease_s=3, ahead=500, slots=8
    )
    findings = await play(plan, print, tmp_path)
    missed = [one for one in findings.results if not one.met and one.unit in _UNTIMED]
    assert missed == [], findings.tables
    assert [row["times"] for row in findings.tables["faults"]] != [], findings.tables
