"""The table of a model's history; rows are the periods that --json prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mlxmesh_cli.screen.grid import Column, Grid

Period = Mapping[str, Any]

_RARE = ("refused", "cancelled")
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


def history_table(periods: Sequence[Period]) -> Grid:
    """One row per version and period."""
    table = Grid(
        Column("time"),
        Column("version"),
        Column("requests", right=True),
        Column("errors", right=True),
        Column("refused", drop=8, right=True, rare=True),
        Column("cancelled", drop=7, right=True, rare=True),
        Column("prompt", drop=4, right=True),
        Column("cached", drop=9, right=True),
        Column("completion", drop=3, right=True),
        Column("ttft p50", drop=1, right=True),
        Column("p95", drop=2, right=True),
        Column("tpot p50", drop=5, right=True),
        Column("device s", drop=6, right=True),
        Column("cost", drop=1, right=True, rare=True),
    )
    for period in periods:
        table.add(
            _time(period),
            str(period["version"]),
            str(period["requests"]),
            str(period["errors"]),
            *(str(period[name]) if int(period[name]) else "" for name in _RARE),
            str(period["prompt_tokens"]),
            str(period["cached_tokens"]),
            str(period["completion_tokens"]),
            _ms(period, "ttft", "p50_ms"),
            _ms(period, "ttft", "p95_ms"),
            _ms(period, "tpot", "p50_ms"),
            f"{period['device_s']:.1f}",
            f"{period['cost']:.4g}" if period["cost"] else "",
        )
    return table


def _time(period: Period) -> str:
    """The hour, the day, or from when to when, in UTC."""
    start, end = (datetime.fromisoformat(period[key]) for key in ("start_time", "end_time"))
    if end - start == _HOUR:
        return f"{start:%Y-%m-%d %H:%M}"
    if end - start == _DAY:
        return f"{start:%Y-%m-%d}"
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"


def _ms(period: Period, duration: str, percentile: str) -> str:
    found: Period = period[duration]
    if not int(found["count"]):
        return "-"
    value_ms = float(found[percentile])
    return f"{value_ms:.0f} ms" if value_ms >= 10 else f"{value_ms:.1f} ms"
