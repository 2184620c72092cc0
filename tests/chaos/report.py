"""What a run of the suite found: JSON, a table for people, and the table of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from tests.bench.results import Findings, Row, judged, shown

BEGIN = "<!-- figures: written by make chaos -->"
END = "<!-- end of figures -->"
STREAM_FAULTS = "tokens missing; tokens repeated or wrong; silent truncations; other faults"
"""The figures that the page calls stream faults, where all four share a row."""


@dataclass(frozen=True)
class Outcome:
    """What one scenario found, or why it found nothing."""

    name: str
    fault: str
    seconds: float
    findings: Findings | None = None
    failure: str = ""


@dataclass(frozen=True)
class Report:
    """One run of several scenarios."""

    machine: str
    outcomes: Sequence[Outcome]

    @property
    def failed(self) -> bool:
        """Whether a scenario found nothing; a target that is missed is no failure."""
        return any(outcome.failure for outcome in self.outcomes)

    def summary(self) -> list[Row]:
        """One row a figure, and one for each scenario that found nothing."""
        return [row for outcome in self.outcomes for row in _rows(outcome)]

    def to_json(self) -> str:
        """The whole of it as text."""
        return _REPORT.dump_json(self, indent=2).decode()


_REPORT = TypeAdapter(Report)


def _rows(outcome: Outcome) -> list[Row]:
    if outcome.findings is None:
        failed = {"result": outcome.failure, "measured": "-", "wanted": "-", "unit": "-"}
        return [{"scenario": outcome.name, **failed, "verdict": "FAILED"}]
    return [{"scenario": outcome.name, **row} for row in judged(outcome.findings.results)]


def markdown(report: Report) -> str:
    """The figures as a table; consecutive figures of a scenario with equal values share a row."""
    lines = [
        f"Measured on {report.machine}. Stream faults: {STREAM_FAULTS}.",
        "",
        "| fault | rounds, calls | figure | measured | target | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(line for one in report.outcomes for line in _lines(one))])


def _lines(outcome: Outcome) -> list[str]:
    if outcome.findings is None:
        return [f"| {outcome.fault} (`{outcome.name}`) | | {outcome.failure} | | | FAILED |"]
    lines: list[str] = []
    head = f"{outcome.fault} (`{outcome.name}`) | {_extent(outcome.findings)}"
    for cells, rows in groupby(judged(outcome.findings.results), _cells):
        names = "; ".join(str(row["result"]) for row in rows)
        names = names.replace(STREAM_FAULTS, "stream faults")
        lines.append(f"| {head} | {names} | {cells} |".replace("  ", " "))
        head = " | "
    return lines


def _cells(row: Row) -> str:
    """The measured value, the target and the verdict; figures that share them share a row."""
    return f"{shown(row['measured'])} {row['unit']} | {row['wanted']} | {row['verdict']}"


def _extent(findings: Findings) -> str:
    """The numbers of rounds and calls behind the figures; empty for scenarios without them."""
    rows = findings.tables.get("by fault", ())
    if not rows:
        return ""
    return ", ".join(f"{sum(int(row[name]) for row in rows):,}" for name in ("rounds", "calls"))


def put_into(page: str, report: Report) -> str:
    """The page with the table of figures replaced. Raises ValueError for a page without a place."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {BEGIN} and {END}, around the figures")
    return f"{before}{BEGIN}\n{markdown(report)}\n{END}{after}"
