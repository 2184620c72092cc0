"""Each kind of fault once: no call fails, no token is lost or repeated. Times are not judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.__main__ import chosen
from tests.chaos.scenario import Run

# One round each; those of links break the client's link only, and those of the registry do the
# first of their faults.
SHORT = (
    "engine-kill",
    "generation-kill",
    "gateway-kill",
    "engine-freeze",
    "link-reset",
    "stream-kill",
    "stream-gateway",
)
TIMES = ("ms", "s", "ratio")


async def test_a_caller_at_its_limits_costs_its_neighbour_nothing(tmp_path: Path) -> None:
    (scenario,) = chosen("neighbour-short")
    findings = await scenario.play(Run(count=1, folder=tmp_path, report=print))
    missed = [one for one in findings.results if not one.met and one.unit not in TIMES]
    assert missed == [], findings.tables


@pytest.mark.parametrize(("name", "count"), [*((name, 1) for name in SHORT), ("shape-kill", 3)])
async def test_a_fault_costs_no_call_and_no_token(name: str, count: int, tmp_path: Path) -> None:
    (scenario,) = chosen(name)
    findings = await scenario.play(Run(count=count, folder=tmp_path, report=print))
    missed = [one for one in findings.results if not one.met and one.unit not in TIMES]
    assert missed == [], findings.tables
    assert {one.name for one in findings.results} >= {"calls failed", "tokens missing"}
