"""What a benchmark finds, and the command line that each one has alone: tables, verdicts, JSON."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, computed_field
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.table import Table

T = TypeVar("T")
Row = Mapping[str, int | float | str]
"""One line of a table, by column; all lines of a table have the same columns."""


@dataclass(frozen=True)
class Result:
    """One figure beside what is wanted of it."""

    name: str
    measured: float
    wanted: float
    unit: str = "ratio"
    at_least: bool = True
    """Whether more is better; otherwise `wanted` is the most that is allowed."""

    @computed_field
    @property
    def met(self) -> bool:
        """Whether the figure is as wanted."""
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted


@dataclass(frozen=True)
class Findings:
    """All that one benchmark found: what is judged, and the tables that it comes from."""

    results: Sequence[Result]
    tables: Mapping[str, Sequence[Row]]

    def to_json(self) -> str:
        """The whole of it as text."""
        return _FINDINGS.dump_json(self, indent=2).decode()

    @staticmethod
    def from_json(text: str) -> Findings:
        """What `to_json` wrote; raises ValueError for anything else."""
        return _FINDINGS.validate_json(text)


_FINDINGS = TypeAdapter(Findings)


def median_of(items: Iterable[T], figure: Callable[[T], float]) -> float:
    """The median of one figure of each."""
    return statistics.median(map(figure, items))


def median_ratio(upper: Sequence[T], lower: Sequence[T], figure: Callable[[T], float]) -> float:
    """The median of ratios taken round by round: a slow round slows both sides."""
    pairs = zip(upper, lower, strict=True)
    return statistics.median(figure(above) / figure(below) for above, below in pairs)


def console() -> Console:
    """Standard output, wide enough for the tables also where it is a file."""
    return Console(width=None if sys.stdout.isatty() else 160)


def machine() -> str:
    """Where, and how busy: figures of different lines are not to be compared."""
    load = os.getloadavg()[0]
    return f"{platform.platform()}, {os.cpu_count()} cores, load average {load:.1f}"


def drawn(title: str, rows: Sequence[Row]) -> Table:
    """A table for people."""
    table = Table(title=title, title_justify="left", box=None)
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*map(shown, row.values()))
    return table


def shown(value: float | str) -> str:
    """A figure with as many digits as say something."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def judged(results: Sequence[Result]) -> list[Row]:
    """The rows of the table of verdicts."""
    return [
        {
            "result": each.name,
            "measured": each.measured,
            "wanted": f"{'≥' if each.at_least else '≤'} {shown(each.wanted)}",
            "unit": each.unit,
            "verdict": "met" if each.met else "MISSED",
        }
        for each in results
    ]


def show(findings: Findings) -> None:
    """Prints every table, and the verdicts last."""
    out = console()
    out.print(machine())
    for title, rows in findings.tables.items():
        out.print(drawn(title, rows))
    out.print(drawn("against the targets", judged(findings.results)))


def write(path: Path, text: str) -> None:
    """Writes a file, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


MODEL_VARIABLE = "BENCH_MODEL"
MODELS = ("smollm2",)
"""Real models that can be measured; the variable tells every process of a benchmark."""


def run_alone(
    about: str | None, measure: Callable[..., Findings], *, rounds: int, **lists: Sequence[float]
) -> None:
    """The command line of one benchmark: `measure(rounds, **lists)`, printed and written.

    Each of `lists` is an option with its default, as in `--streams 1 8 32`.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each kind")
    for name, values in lists.items():
        parser.add_argument(f"--{name}", type=type(values[0]), nargs="+", default=values)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--model", choices=MODELS, help="measure a real model instead of our own")
    args = parser.parse_args()
    if args.model:
        os.environ[MODEL_VARIABLE] = args.model
    findings = measure(args.rounds, **{name: getattr(args, name) for name in lists})
    show(findings)
    if args.json:
        write(args.json, findings.to_json())
