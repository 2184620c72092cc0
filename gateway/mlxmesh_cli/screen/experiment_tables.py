"""Tables of experiments and of their analysis; rows are those that --json prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.text import Text

from mlxmesh_cli.screen.grid import Column, Grid

Row = Mapping[str, Any]

_SHARES = ("error", "schema_valid", "tools_valid")
_MIN_DESCRIPTION_CELLS = 16


def experiments_table(experiments: Sequence[Row]) -> Grid:
    """One row per experiment."""
    table = Grid(
        Column("experiment"),
        Column("model"),
        Column("state"),
        Column("by", drop=3),
        Column("arms", drop=2),
        Column("requests", drop=1, right=True),
        Column("started", drop=4),
        Column("description", drop=5, min_cells=_MIN_DESCRIPTION_CELLS, rare=True),
    )
    for each in experiments:
        table.add(
            each["experiment_id"],
            f"{each['model']}:{each['alias']}",
            each["state"],
            each["subject"],
            " ".join(_arm(arm) for arm in each["arms"]),
            f"{int(each['requests']):,}",
            _time(each, "create_time"),
            each["description"],
        )
    return table


def experiment_view(found: Row) -> Group:
    """One experiment, a line for each of its properties."""
    lines = {
        "experiment": found["experiment_id"],
        "model": f"{found['model']}:{found['alias']}",
        "state": found["state"],
        "reason": found["reason"],
        "assigned by": found["subject"],
        "arms": ", ".join(_arm(arm) for arm in found["arms"]),
        "requests": f"{int(found['requests']):,}",
        "started": _time(found, "create_time"),
        "ended": _time(found, "end_time"),
        "description": found["description"],
    }
    return Group(*(Text(f"{name:12}{value}") for name, value in lines.items() if value))


def analysis_view(found: Row) -> Group:
    """The figures by metric and arm, what each metric says, and what all say together."""
    counts = sorted(found["requests"].items())
    requests = ", ".join(f"{arm} {int(count):,}" for arm, count in counts)
    says = [Text(metric["verdict"]) for metric in found["metrics"]]
    tested = f"sample ratio: p = {found['sample_ratio_p_value']:.3g}; requests: {requests}"
    table = [_analysis_table(found["metrics"]), ""] if found["metrics"] else []
    return Group(*table, *says, Text(tested), "", Text(found["verdict"], style="bold"))


def _analysis_table(metrics: Sequence[Row]) -> Grid:
    table = Grid(
        Column("metric"),
        Column("arm"),
        Column("values", drop=2, right=True),
        Column("mean", right=True),
        Column("difference", right=True),
        Column("interval", right=True),
        Column("effect", drop=1, right=True),
        Column("shown"),
    )
    for metric in metrics:
        for arm in metric["arms"]:
            table.add(*_analysis_row(metric["metric"], arm))
    return table


def _analysis_row(metric: str, arm: Row) -> Sequence[str | Text]:
    difference = arm.get("difference")
    cells = [metric, arm["arm"], f"{int(arm['values']):,}", _number(metric, arm["mean"]["mean"])]
    if difference is None:
        return [*cells, "", "", "", ""]
    lower, upper = (float(difference[end]) for end in ("lower", "upper"))
    known = math.isfinite(lower)
    interval = f"{_number(metric, lower)} to {_number(metric, upper)}" if known else "not yet"
    relative = arm.get("relative_difference")
    shown = Text("yes", style="bold") if arm["significant"] else "no"
    return [
        *cells,
        f"{relative:+.1%}" if relative is not None else _number(metric, difference["mean"]),
        interval,
        f"{arm['effect_size']:+.2f}" if "effect_size" in arm else "",
        shown,
    ]


def _number(metric: str, value: float) -> str:
    if metric in _SHARES:
        return f"{float(value):.2%}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _arm(arm: Row) -> str:
    return f"{arm['arm']}=@{arm['version']}:{arm['weight']}%"


def _time(row: Row, name: str) -> str:
    """A time in this machine's time zone; empty where there is none."""
    if not row.get(name):
        return ""
    return datetime.fromisoformat(row[name]).astimezone().strftime("%Y-%m-%d %H:%M")
