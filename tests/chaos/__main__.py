"""Breaks a mesh of real processes in every way that is promised to be survived, and judges.

    .venv/bin/python -m tests.chaos [--only engine-kill,link-reset] [--count 20] [--json FILE]
                                    [--markdown docs/reliability.md] [--keep DIRECTORY]

A missed target is a finding, not a failure; the exit status tells of scenarios that did not run
to their end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.bench.results import Findings, console, drawn, machine, write
from tests.chaos.report import Outcome, Report, put_into
from tests.chaos.scenario import Run, Scenario
from tests.chaos.scenarios import SCENARIOS

# Beyond its own limit, for the round that runs and for the mesh's start and stop.
GRACE_S = 240.0

progress = Console(stderr=True, width=None if sys.stderr.isatty() else 160)


def play(scenario: Scenario, count: int, folder: Path) -> Outcome:
    """One scenario from start to end; an exception in it is its outcome."""
    started_s = time.monotonic()
    folder.mkdir(parents=True)
    until_s = started_s + scenario.limit_s
    run = Run(count, folder, lambda line: progress.print(f"  {line}", highlight=False), until_s)
    findings, failure = None, ""
    try:
        findings = asyncio.run(_bounded(scenario, run))
    except Exception as error:  # noqa: BLE001  one scenario must not end the others
        traceback.print_exc()
        failure = f"{type(error).__name__}: {error}"
    return Outcome(scenario.name, scenario.fault, time.monotonic() - started_s, findings, failure)


async def _bounded(scenario: Scenario, run: Run) -> Findings:
    async with asyncio.timeout(scenario.limit_s + GRACE_S):
        return await scenario.play(run)


def play_all(scenarios: Sequence[Scenario], count: int | None, folder: Path) -> Report:
    """One after the other: they would disturb each other."""
    where, outcomes = machine(), list[Outcome]()
    for number, scenario in enumerate(scenarios, 1):
        head = f"{number} of {len(scenarios)}, {scenario.name}: {scenario.fault}"
        progress.rule(head, align="left")
        outcome = play(scenario, count or scenario.count, folder / scenario.name)
        outcomes.append(outcome)
        progress.print(f"{outcome.failure or 'done'}, {outcome.seconds:.0f} s")
    return Report(where, outcomes)


def show(report: Report) -> None:
    """Prints every table, and the verdicts last."""
    out = console()
    for outcome in report.outcomes:
        if outcome.findings is not None:
            for title, rows in outcome.findings.tables.items():
                out.print(f"\n{outcome.name}, {title}:")
                out.print(drawn("", rows))
    out.print(f"{report.machine}; {sum(each.seconds for each in report.outcomes):.0f} s")
    out.print(drawn("against the targets", report.summary()))


def main() -> int:
    """Parse the options, run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="names of scenarios, as in engine-kill,link-reset"
    )
    parser.add_argument("--count", type=int, help="rounds of each scenario")
    parser.add_argument("--json", type=Path, help="write all findings here")
    parser.add_argument("--markdown", type=Path, help="put the table of figures into this page")
    parser.add_argument("--keep", type=Path, help="keep the histories in this new directory")
    args = parser.parse_args()
    try:
        scenarios = chosen(args.only)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory(prefix="mlxmesh-chaos-") as folder:
        report = play_all(scenarios, args.count, args.keep or Path(folder))
    show(report)
    if args.json:
        write(args.json, report.to_json())
    if args.markdown:
        args.markdown.write_text(put_into(args.markdown.read_text(), report))
    return int(report.failed)


def chosen(only: str) -> list[Scenario]:
    """The scenarios of a list such as "engine-kill,link-reset"; all when it is empty.

    Raises ValueError for a name that no scenario has.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    asked = [word.strip() for word in only.split(",") if word.strip()] or list(known)
    if unknown := set(asked) - known.keys():
        raise ValueError(f"there is no {min(unknown)!r}; there are {', '.join(known)}")
    return [known[name] for name in asked]


if __name__ == "__main__":
    sys.exit(main())
