"""How figures grow with the number of engines: exponents, verdicts and curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.bench.curves import Curve, Panel
from tests.bench.results import Findings, Result, Row

X = "engines"
MAX_EXPONENT = 1.1
"""Linear, and some room for what a busy machine adds."""
FLAT_EXPONENT = 0.3
LINEAR = ("place us, half of all", "KB/change", "MB/instance")
"""Each instance knows all engines, and Consul lists all of them: these may grow with their number,
not faster."""
FLAT = ("place us, 10 replicas", "watcher KB/s at rest", "watcher KB/s after the loss")
"""What must not grow with the number of other engines."""
_NOTHING = 1e-9


def exponent(rows: Sequence[Row], figure: str) -> float:
    """The k of the best fit of figure = c * engines^k, by least squares of the logarithms.

    Sizes at which the figure is 0 are left out. Where it is above 0 at one size only, inf if that
    is the largest one, else 0; 0 also where it is 0 at all sizes. nan for a single size.
    """
    xs = np.array([float(row[X]) for row in rows])
    ys = np.array([float(row[figure]) for row in rows])
    if len(rows) < 2:
        return float("nan")
    some = ys > _NOTHING
    if some.sum() < 2:
        return float("inf") if some[-1] else 0.0
    return float(np.polyfit(np.log(xs[some]), np.log(ys[some]), 1)[0])


def judged(rows: Sequence[Row]) -> Findings:
    """The table of all sizes, the exponent of each figure, and what exceeds the limits."""
    limits = dict.fromkeys(LINEAR, MAX_EXPONENT) | dict.fromkeys(FLAT, FLAT_EXPONENT)
    results = [
        Result(f"exponent of {figure}", exponent(rows, figure), limit, "", at_least=False)
        for figure, limit in limits.items()
        if len(rows) > 1
    ]
    return Findings(results, tabled(rows).tables)


def tabled(rows: Sequence[Row]) -> Findings:
    """The figures of all sizes, and the exponent of each."""
    grown: list[Row] = [
        {
            "figure": figure,
            **{f"{row[X]} engines": row[figure] for row in rows},
            "grows with engines^": exponent(rows, figure),
        }
        for figure in rows[0]
        if figure != X
    ]
    return Findings([], {"by size": grown})


def panels(rows: Sequence[Row]) -> list[Panel]:
    """The curves of docs/scale.md."""
    shown = (
        ("cost of a placement, us of CPU", ("place us, half of all", "place us, 10 replicas")),
        ("one change, KB that a watcher reads", ("KB/change",)),
        ("CPU of one change, ms", ("watcher ms/change", "consul ms/change")),
        ("Consul's CPU, % of a core", ("consul % at rest", "consul % after the loss")),
        ("a tenth is lost, s", ("links noticed s", "converged p50 s", "converged s")),
        ("memory of an instance, MB", ("MB/instance",)),
    )
    return [_panel(title, names, rows) for title, names in shown]


def cost_panels(rows: Sequence[Row]) -> list[Panel]:
    """The curves of one instance's costs."""
    shown = (
        ("cost of a placement, us of CPU", ("place us, half of all", "place us, 10 replicas")),
        ("one answer of Consul, KB", ("KB/answer",)),
        ("CPU of one answer, ms", ("read ms", "consul ms")),
        ("a tenth is gone, ms of CPU", ("forget a tenth ms",)),
    )
    return [_panel(title, names, rows) for title, names in shown]


def _panel(title: str, names: Sequence[str], rows: Sequence[Row]) -> Panel:
    points = {name: [(float(row[X]), float(row[name])) for row in rows] for name in names}
    return Panel(title, X, [Curve(name, found) for name, found in points.items()], log_x=False)
